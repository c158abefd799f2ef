-- Until when a score holds if nothing happens to the lead.

alter table lead_scores add column valid_until timestamptz;
