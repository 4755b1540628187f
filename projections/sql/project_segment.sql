-- Write the manifest rows of an append; a deleted run loses all of its own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_segment(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    insert into segment
    select p_ledger_id, r.run_id, r.segment, p_position[x.event], r.kind, r.path, r.rows, r.first_position,
           r.last_position, r.sha256, r.bytes, r.levels_path, r.levels_bytes
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             run_id uuid, segment uuid, kind text, path text, rows bigint, first_position bigint,
             last_position bigint, sha256 text, bytes bigint, levels_path text, levels_bytes bigint)
    where p_position[x.event] is not null;
end $$;
