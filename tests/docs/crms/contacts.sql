-- A sales CRM: uuid ids, a schema for each part, a soft delete by time, local times of Berlin.
create schema sales;
create schema ref;
create schema admissions;
create table ref.sources (id integer primary key, label text not null);
insert into ref.sources values (1, 'fair'), (2, 'web'), (3, 'partner'), (4, 'walk-in');
create table sales.contacts (
    contact_uuid uuid primary key default gen_random_uuid(),
    full_name text,
    email text,
    created_on timestamp not null,
    stage varchar(20),
    source_id bigint references ref.sources,
    touches smallint,
    gpa numeric(3, 2),
    country_code char(2),
    has_consent boolean,
    deleted_at timestamp,
    updated_by text default 'crm',
    row_version bigint not null default 1
);
create table admissions.applications (
    number bigserial primary key,
    contact_id uuid not null references sales.contacts,
    state text not null,
    submitted_on date not null
);

select setseed(0.17);
insert into sales.contacts (contact_uuid, full_name, email, created_on, stage, source_id,
    touches, gpa, country_code, has_consent)
select md5('contact ' || n)::uuid, 'Person ' || n, 'person' || n || '@example.com',
       now() at time zone 'Europe/Berlin' - n * interval '5 hours', (array['new', 'called', 'visited'])[1 + n % 3],
       1 + floor(4 * random()), floor(12 * random()),
       case when random() < 0.9 then 2 + 2 * random() end,
       (array['DE', 'FR', 'PL'])[1 + floor(3 * random())], random() < 0.7
from generate_series(1, 2400) as n;
insert into admissions.applications (contact_id, state, submitted_on)
select contact_uuid, case when random() < 0.9 then 'submitted' else 'draft' end,
       created_on::date + 1 + floor(40 * random())::int
from sales.contacts
where random() < 0.02 + 0.04 * touches + 0.2 * (coalesce(gpa, 2.5) - 2);
delete from admissions.applications where submitted_on > current_date;
update sales.contacts set deleted_at = now() at time zone 'Europe/Berlin' where row_version = 1 and touches = 11
    and not has_consent;
