-- Write the state of sweeps. A row whose event was not appended is passed over; a time of infinity is the append's own.
create or replace function projection.project_sweep(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into sweep (sweep_id, ledger_id, version, status, state, created_at)
    select r.sweep_id, p_ledger_id, r.version, r.status, decode(r.state, 'base64'),
           coalesce(nullif(r.created_at, 'infinity'), p_recorded_at)
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(sweep_id uuid, version integer, status text, state text, created_at timestamptz)
    where p_position[x.event] is not null
    on conflict (sweep_id) do update
        set (version, status, state) = row (excluded.version, excluded.status, excluded.state)
$$;
