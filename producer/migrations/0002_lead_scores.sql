-- The current score of each lead, kept by `leadstream sink`: join it to people by id. It has no foreign key, for a score
-- may come before its lead is committed here, or after it is gone.

create table lead_scores (
    lead_id text primary key,
    probability double precision not null,
    probability_low double precision not null,
    probability_high double precision not null,
    confidence double precision not null,
    grade text not null,
    prediction boolean not null,
    reasons jsonb not null,
    model_version text not null,
    variant text not null,
    prediction_id text not null,
    event_id text not null,
    lead_version bigint not null,
    occurred_at timestamptz not null,
    scored_at timestamptz not null
);

create index lead_scores_probability on lead_scores (probability desc);
