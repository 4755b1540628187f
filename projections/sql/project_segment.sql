-- Write the manifest rows of an append; the files that a merged one stands for are no longer in the manifest, and are
-- kept in mind until they are removed. A time of infinity is the append's own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_segment(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    insert into segment
    select p_ledger_id, r.run_id, r.segment, p_position[x.event], r.kind, r.path, r.rows, r.first_position,
           r.last_position, r.sha256, r.bytes, r.levels_path, r.levels_bytes, r.levels_sha256
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             run_id uuid, segment uuid, kind text, path text, rows bigint, first_position bigint,
             last_position bigint, sha256 text, bytes bigint, levels_path text, levels_bytes bigint,
             levels_sha256 text)
    where p_position[x.event] is not null;

    with replaced as (
        delete from segment s
        using jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
              jsonb_to_record(x.row) as r(run_id uuid, replaces jsonb, at timestamptz),
              jsonb_array_elements_text(r.replaces) as o(segment_id)
        where p_position[x.event] is not null and s.ledger_id = p_ledger_id and s.run_id = r.run_id
          and s.segment_id = o.segment_id::uuid
        returning s.run_id, s.segment_id, s.path, s.levels_path,
                  coalesce(nullif(r.at, 'infinity'), p_recorded_at) as replaced_at
    )
    insert into replaced_segment
    select p_ledger_id, run_id, segment_id, replaced_at, path, levels_path from replaced;
end $$;
