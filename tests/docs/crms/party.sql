-- A party model: a view joins the leads, ids are texts, attributes are JSON, and a status marks
-- what is deleted. Nothing says when a row was changed.
create schema crm;
create table crm.party (
    party_ref text primary key,
    party_type text not null,
    display_name text,
    status_code text not null,
    attributes jsonb not null,
    entered timestamptz not null
);
create table crm.party_score (
    party_ref text primary key references crm.party, score numeric(12, 2)
);
create table crm.deal (
    deal_no integer generated always as identity primary key,
    party_ref text not null references crm.party,
    outcome text not null,
    closed_on date not null
);
create view crm.v_prospects as
select p.party_ref as prospect_ref, p.status_code, p.entered, s.score, p.attributes,
       p.attributes ->> 'channel' as channel, (p.attributes ->> 'visits')::int as visits
from crm.party p left join crm.party_score s using (party_ref)
where p.party_type = 'PERSON';

select setseed(0.41);
insert into crm.party
select 'P-' || lpad(n::text, 4, '0') || '/é', case when n % 12 = 0 then 'ORG' else 'PERSON' end,
       'Party ' || n, (array['OPEN', 'NURTURE', 'OPEN', 'DEL'])[1 + floor(3.1 * random())::int],
       jsonb_build_object('channel', (array['web', 'fair', 'agent'])[1 + floor(3 * random())::int],
                          'visits', floor(8 * random()), 'tags', jsonb_build_array('a', n)),
       now() - n * interval '4 hours'
from generate_series(1, 2600) as n;
insert into crm.party_score select party_ref, round((100 * random())::numeric, 2)
from crm.party where random() < 0.85;
insert into crm.deal (party_ref, outcome, closed_on)
select party_ref, case when random() < 0.8 then 'WON' else 'LOST' end,
       entered::date + 1 + floor(45 * random())::int
from crm.party left join crm.party_score using (party_ref)
where random() < 0.03 + 0.006 * coalesce(score, 40) + 0.02 * (attributes ->> 'visits')::int;
delete from crm.deal where closed_on > current_date;
update crm.party p set status_code = 'CUSTOMER' where status_code <> 'DEL'
    and exists (select from crm.deal d where d.party_ref = p.party_ref and d.outcome = 'WON');
