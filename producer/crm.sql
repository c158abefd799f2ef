-- The CRM as audited, and lead_history: what was known at each change, which training needs and a CRM forgets.
-- source, programme and campus of people are those of the enquiry; those of applications give the outcome away.

create table if not exists programmes (
    id bigint primary key,
    name text not null unique
);

create table if not exists campuses (
    id bigint primary key,
    name text not null unique
);

create table if not exists people (
    id text primary key,
    first_name text,
    last_name text,
    email text,
    phone text,
    lead_score double precision,
    lifecycle_state text,
    status text,
    created_at timestamptz not null,
    engagement_score double precision,
    touchpoint_count integer,
    conversion_probability double precision,
    source text,
    programme_id bigint references programmes,
    campus_id bigint references campuses,
    lead_version bigint not null default 0
);

create table if not exists applications (
    id bigserial primary key,
    person_id text not null references people on delete cascade,
    source text,
    programme_id bigint references programmes,
    campus_id bigint references campuses,
    submitted_at timestamptz not null
);

create index if not exists applications_person on applications (person_id, submitted_at);

-- Append-only, but for the erasure of a lead; state is a LeadState as JSON, with created_at in milliseconds since 1970 (UTC).
create table if not exists lead_history (
    seq bigserial primary key,
    event_id text not null unique,
    lead_id text not null,
    change_type text not null,
    occurred_at timestamptz not null,
    lead_version bigint not null,
    state jsonb
);

create index if not exists lead_history_lead on lead_history (lead_id);
