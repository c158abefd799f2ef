-- The outbox of a CRM that a file describes. It takes the place of 0001 and 0003, whose triggers are those of the table
-- people; `leadstream db migrate` generates the triggers of a described table. facts holds columns as the CRM has them,
-- by their names. The functions keep the path `<schema of the outbox>, pg_temp`.

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

create function leadstream_wake() returns trigger language plpgsql as $$
begin
    notify leadstream_outbox;
    return null;
end;
$$;

create trigger leadstream_wake after insert on leadstream_outbox
for each statement when (current_setting('max_prepared_transactions')::integer = 0)
execute function leadstream_wake();

revoke all on function leadstream_wake() from public;
revoke all on leadstream_outbox from public;
