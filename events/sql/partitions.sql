-- Hourly partitions of ledger.telemetry: create the ones of the coming hours, drop the ones that are in Parquet.

-- Create the partitions that cover now and the next `p_hours` hours. Batches that came while one was missing are
-- moved into it from the default partition, which would refuse it otherwise. Returns how many were missing.
create or replace function ledger.create_partitions(p_hours integer) returns integer
language plpgsql security definer set search_path = '' as $$
declare
    v_from    timestamptz;
    v_name    text;
    v_created integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('ledger.partitions'));
    for v_from in
        select h from generate_series(date_trunc('hour', now(), 'UTC'),
                                      date_trunc('hour', now(), 'UTC') + make_interval(hours => p_hours),
                                      interval '1 hour') h
    loop
        v_name := 'telemetry_' || to_char(v_from at time zone 'UTC', 'YYYYMMDD_HH24');
        if to_regclass('ledger.' || v_name) is null then
            lock table ledger.telemetry in access exclusive mode;
            execute format('create table ledger.%I (like ledger.telemetry including storage)', v_name);
            execute format('with moved as (delete from ledger.telemetry_default where recorded_at >= %L and recorded_at < %L'
                           ' returning *) insert into ledger.%I select * from moved',
                           v_from, v_from + interval '1 hour', v_name);
            execute format('alter table ledger.telemetry attach partition ledger.%I for values from (%L) to (%L)',
                           v_name, v_from, v_from + interval '1 hour');
            v_created := v_created + 1;
        end if;
    end loop;
    return v_created;
end $$;

-- Drop the partitions that ended over `p_keep` ago and hold no batch beyond what `p_archived` (stream, metrics
-- through, logs through) says is in Parquet. Streams that are not named there keep theirs. Batches of the default
-- partition go one by one, by the same rule. What tells a repeated batch from another stays, while its run has a key;
-- locking that key makes an erasure wait, which then finds it. Returns the names of what was dropped.
create or replace function ledger.drop_partitions(
    p_keep interval, p_stream uuid[], p_metrics bigint[], p_logs bigint[]
) returns setof text
language plpgsql security definer set search_path = '' as $$
declare
    v_name text;
    v_kept boolean;
begin
    perform pg_advisory_xact_lock(hashtext('ledger.partitions'));
    for v_name in
        select c.relname from pg_catalog.pg_class c
        join pg_catalog.pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'ledger.telemetry'::regclass and c.relname ~ '^telemetry_\d{8}_\d{2}$'
          and to_timestamp(substr(c.relname, 11) || ' UTC', 'YYYYMMDD_HH24 TZ') + interval '1 hour' < now() - p_keep
        order by 1
    loop
        execute format($q$
            select exists (
                select 1 from ledger.%I t
                join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
                left join unnest($1, $2, $3) a(stream, metrics, logs) on a.stream = t.stream
                where t.position > coalesce(case when e.type = 'run.logs_written' then a.logs else a.metrics end, 0)
            )$q$, v_name)
        into v_kept using p_stream, p_metrics, p_logs;
        if not v_kept then
            execute format($q$
                insert into ledger.archived_request
                select t.ledger_id, t.stream, t.position, t.request
                from ledger.%I t join ledger.data_key k on k.ledger_id = t.ledger_id and k.stream = t.stream
                where length(t.request) = 16 for key share of k$q$, v_name);
            execute format('drop table ledger.%I', v_name);
            return next v_name;
        end if;
    end loop;
    with gone as (
        delete from ledger.telemetry_default t
        using ledger.event e, unnest(p_stream, p_metrics, p_logs) a(stream, metrics, logs)
        where e.ledger_id = t.ledger_id and e.position = t.position and a.stream = t.stream
          and t.recorded_at < now() - p_keep
          and t.position <= case when e.type = 'run.logs_written' then a.logs else a.metrics end
        returning t.ledger_id, t.stream, t.position, t.request
    )
    insert into ledger.archived_request
    select g.* from gone g join ledger.data_key k on k.ledger_id = g.ledger_id and k.stream = g.stream
    where length(g.request) = 16 for key share of k;
end $$;
