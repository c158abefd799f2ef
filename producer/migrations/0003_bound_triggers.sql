-- The trigger functions write to the outbox with their owner's rights. So only their owner may
-- create a trigger that calls them. They refuse every table but people and applications (and their
-- partitions) of their own schema. The check comes first: a conversion of a row of another table
-- could call a function of its owner. By hand, first
-- `set search_path = <schema of people>, pg_temp`, which the functions keep.

create or replace function leadstream_person_changed() returns trigger
language plpgsql security definer set search_path from current as $$
declare
    old_person jsonb;
    new_person jsonb;
    moved boolean;
begin
    if to_regclass(quote_ident(current_schema()) || '.people')
        is distinct from coalesce(pg_partition_root(tg_relid), tg_relid)
    then
        raise insufficient_privilege using
            message = format('leadstream_person_changed() serves the table %I.people only, not %s',
                             current_schema(), tg_relid::regclass),
            hint = 'Drop this trigger. If people was renamed, drop it there, too.';
    end if;
    old_person := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    new_person := case when tg_op <> 'DELETE' then to_jsonb(new) end;
    moved := old_person ->> 'id' is distinct from new_person ->> 'id';
    -- An id that changes is one lead that goes and another that comes.
    if moved and old_person is not null then
        insert into leadstream_outbox (record, lead_id, change_type, facts)
        values ('LeadChanged', old_person ->> 'id', 'DELETED',
                jsonb_build_object('lead_version', old_person -> 'lead_version'));
    end if;
    if new_person is not null
        and (moved or leadstream_state(old_person) <> leadstream_state(new_person))
    then
        insert into leadstream_outbox (record, lead_id, change_type, facts)
        values ('LeadChanged', new_person ->> 'id',
                case when moved then 'CREATED' else 'UPDATED' end,
                leadstream_state(new_person)
                    || jsonb_build_object('lead_version', new_person -> 'lead_version'));
    end if;
    return null;
end;
$$;

create or replace function leadstream_application_submitted() returns trigger
language plpgsql security definer set search_path from current as $$
declare
    old_one jsonb;
    new_one jsonb;
begin
    if to_regclass(quote_ident(current_schema()) || '.applications')
        is distinct from coalesce(pg_partition_root(tg_relid), tg_relid)
    then
        raise insufficient_privilege using
            message = format('leadstream_application_submitted() serves the table '
                             '%I.applications only, not %s',
                             current_schema(), tg_relid::regclass),
            hint = 'Drop this trigger. If applications was renamed, drop it there, too.';
    end if;
    old_one := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    new_one := to_jsonb(new);
    -- A draft becomes an outcome when it is submitted, and once.
    if new_one ->> 'submitted_at' is not null and old_one ->> 'submitted_at' is null
        and new_one ->> 'person_id' is not null
    then
        insert into leadstream_outbox (record, lead_id, facts)
        values ('LeadOutcome', new_one ->> 'person_id',
                jsonb_build_object('decided_at', new_one -> 'submitted_at'));
    end if;
    return null;
end;
$$;

revoke all on function leadstream_person_changed(), leadstream_application_submitted(),
    leadstream_wake(), leadstream_state(jsonb) from public;
revoke all on leadstream_outbox from public;
