-- Write the status transitions of an append. A time of infinity is the append's own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_transition(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    insert into run_transition
    select p_ledger_id, r.run_id, r.version, p_position[x.event], r.event, r.from_status, r.to_status, r.cause,
           r.actor, r.epoch, coalesce(nullif(r.at, 'infinity'), p_recorded_at)
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             run_id uuid, version integer, event text, from_status text, to_status text, cause text, actor text,
             epoch integer, at timestamptz)
    where p_position[x.event] is not null;
end $$;
