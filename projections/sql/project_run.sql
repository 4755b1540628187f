-- Write the state of runs at the version that their last event of this append leads to. A row whose event was not
-- appended is passed over; a time of infinity is the append's own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_run(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    insert into run
    select p_ledger_id, r.run_id, r.version, p_position[x.event], r.name, r.external_id, r.status, r.mode,
           r.workflow_id, r.worker_id, r.epoch, r.kill_requested, r.unresponsive, r.archived, r.purged,
           coalesce(nullif(r.created_at, 'infinity'), p_recorded_at),
           case r.started_at when 'infinity' then p_recorded_at else r.started_at end,
           coalesce(nullif(r.status_since, 'infinity'), p_recorded_at),
           case r.kill_requested_at when 'infinity' then p_recorded_at else r.kill_requested_at end,
           case r.ended_at when 'infinity' then p_recorded_at else r.ended_at end,
           case r.deleted_at when 'infinity' then p_recorded_at else r.deleted_at end,
           decode(r.state, 'base64'), r.reproduced_from,
           case r.progress_at when 'infinity' then p_recorded_at else r.progress_at end,
           r.sweep_id, r.trial,
           case r.imported_at when 'infinity' then p_recorded_at else r.imported_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             run_id uuid, version integer, name text, external_id text, status text, mode text, workflow_id uuid,
             worker_id uuid, epoch integer, kill_requested boolean, unresponsive boolean, archived boolean,
             purged boolean, created_at timestamptz, started_at timestamptz, status_since timestamptz,
             kill_requested_at timestamptz, ended_at timestamptz, deleted_at timestamptz, state text,
             reproduced_from uuid, progress_at timestamptz, sweep_id uuid, trial integer,
             imported_at timestamptz)
    where p_position[x.event] is not null
    on conflict (ledger_id, run_id) do update set
        (version, position, name, external_id, status, mode, workflow_id, worker_id, epoch, kill_requested,
         unresponsive, archived, purged, created_at, started_at, status_since, kill_requested_at, ended_at,
         deleted_at, state, reproduced_from, progress_at, sweep_id, trial, imported_at)
        = row (excluded.version, excluded.position, excluded.name, excluded.external_id, excluded.status,
         excluded.mode, excluded.workflow_id, excluded.worker_id, excluded.epoch, excluded.kill_requested,
         excluded.unresponsive, excluded.archived, excluded.purged, excluded.created_at, excluded.started_at,
         excluded.status_since, excluded.kill_requested_at, excluded.ended_at, excluded.deleted_at,
         excluded.state, excluded.reproduced_from, excluded.progress_at, excluded.sweep_id, excluded.trial,
         excluded.imported_at);
end $$;
