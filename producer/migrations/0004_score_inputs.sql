-- Which inputs a score had: the share that the lead has, and the names of those that it lacks.

alter table lead_scores add column feature_coverage double precision;
alter table lead_scores add column imputed jsonb;
