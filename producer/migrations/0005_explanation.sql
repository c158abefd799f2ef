-- Why a score is what it is, as sentences for people.

alter table lead_scores add column explanation text;
