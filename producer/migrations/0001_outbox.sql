-- The outbox: what changed about a lead that its score depends on, and each application that was submitted. Triggers
-- fill it within the CRM's own transactions; `leadstream relay` publishes and trims it. Needs TRIGGER on people and
-- applications, and CREATE on their schema. `leadstream db migrate` applies it; by hand, first
-- `set search_path = <schema of people>, pg_temp`, which the functions keep.
--
-- Rows are never updated. facts holds columns as the CRM has them, for a trigger that converts could fail the CRM's own
-- write. Names, e-mail addresses, phone numbers and conversion_probability are not among them: a score written back
-- changes nothing here. Whoever sets leadstream.origin to 'leadstream' marks what it changes as caused by a score.

create table leadstream_outbox (
    position bigint generated always as identity primary key,
    event_id uuid not null default gen_random_uuid(),
    record text not null,
    lead_id text not null,
    change_type text,
    occurred_at timestamptz not null default clock_timestamp(),
    origin text not null default coalesce(nullif(current_setting('leadstream.origin', true), ''), 'crm'),
    facts jsonb
);

-- What a score depends on; a column that this CRM does not have is null.
create function leadstream_state(person jsonb) returns jsonb language sql immutable parallel safe
return jsonb_build_object(
    'created_at', person -> 'created_at',
    'lead_score', person -> 'lead_score',
    'engagement_score', person -> 'engagement_score',
    'touchpoint_count', person -> 'touchpoint_count',
    'lifecycle_state', person -> 'lifecycle_state',
    'status', person -> 'status',
    'source', person -> 'source',
    'programme_id', person -> 'programme_id',
    'programme_name', person -> 'programme_name',
    'campus_id', person -> 'campus_id',
    'campus_name', person -> 'campus_name'
);

create function leadstream_person_changed() returns trigger
language plpgsql security definer set search_path from current as $$
declare
    old_person jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    new_person jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    moved boolean := old_person ->> 'id' is distinct from new_person ->> 'id';
begin
    -- An id that changes is one lead that goes and another that comes.
    if moved and old_person is not null then
        insert into leadstream_outbox (record, lead_id, change_type, facts)
        values ('LeadChanged', old_person ->> 'id', 'DELETED',
                jsonb_build_object('lead_version', old_person -> 'lead_version'));
    end if;
    if new_person is not null and (moved or leadstream_state(old_person) <> leadstream_state(new_person)) then
        insert into leadstream_outbox (record, lead_id, change_type, facts)
        values ('LeadChanged', new_person ->> 'id', case when moved then 'CREATED' else 'UPDATED' end,
                leadstream_state(new_person) || jsonb_build_object('lead_version', new_person -> 'lead_version'));
    end if;
    return null;
end;
$$;

create trigger leadstream_person_changed after insert or update or delete on people
for each row execute function leadstream_person_changed();

create function leadstream_application_submitted() returns trigger
language plpgsql security definer set search_path from current as $$
declare
    old_one jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    new_one jsonb := to_jsonb(new);
begin
    -- A draft becomes an outcome when it is submitted, and once.
    if new_one ->> 'submitted_at' is not null and old_one ->> 'submitted_at' is null
        and new_one ->> 'person_id' is not null
    then
        insert into leadstream_outbox (record, lead_id, facts)
        values ('LeadOutcome', new_one ->> 'person_id', jsonb_build_object('decided_at', new_one -> 'submitted_at'));
    end if;
    return null;
end;
$$;

do $$
begin
    if to_regclass('applications') is not null then
        create trigger leadstream_application_submitted after insert or update on applications
        for each row execute function leadstream_application_submitted();
    end if;
end;
$$;

-- Wakes the relay, which polls as well. Not where two-phase commits are allowed: Postgres cannot prepare a transaction
-- that has notified. Disable this trigger where writers come in hundreds at once: notifying commits wait for each other.
create function leadstream_wake() returns trigger language plpgsql as $$
begin
    notify leadstream_outbox;
    return null;
end;
$$;

create trigger leadstream_wake after insert on leadstream_outbox
for each statement when (current_setting('max_prepared_transactions')::integer = 0)
execute function leadstream_wake();
