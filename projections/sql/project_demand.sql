-- Write which runs of an append wait, hold slots or are to be tried again, and forget those that do none of it any
-- longer. A row whose event was not appended is passed over; a time of infinity is the append's own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_demand(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    with said as (
        select r.* from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
            jsonb_to_record(x.row) as r(
                run_id uuid, priority integer, created_at timestamptz, waiting boolean, held text[], ended boolean,
                to_stop boolean, retry_due boolean)
        where p_position[x.event] is not null
    ), gone as (
        delete from demand d using said s
        where d.ledger_id = p_ledger_id and d.run_id = s.run_id and not (s.waiting or s.held <> '{}' or s.retry_due)
    )
    insert into demand
    select p_ledger_id, s.run_id, l.organisation_id, s.priority,
           coalesce(nullif(s.created_at, 'infinity'), p_recorded_at), s.waiting, s.held, s.ended, s.to_stop, s.retry_due
    from said s join ledger.ledger l on l.ledger_id = p_ledger_id
    where s.waiting or s.held <> '{}' or s.retry_due
    on conflict (ledger_id, run_id) do update set
        (waiting, held, ended, to_stop, retry_due)
        = row (excluded.waiting, excluded.held, excluded.ended, excluded.to_stop, excluded.retry_due);
end $$;
