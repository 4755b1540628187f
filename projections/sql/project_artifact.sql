-- Write the artifacts that an append saves. A time of infinity is the append's own.
-- PL/pgSQL keeps the plan; as plain SQL it was planned at every append.
create or replace function projection.project_artifact(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    insert into artifact
    select p_ledger_id, r.artifact_id, r.run_id, p_position[x.event], r.name, r.kind, r.bytes, r.sha256, r.media_type,
           r.caption, r.blob_id, r.part_bytes, coalesce(nullif(r.at, 'infinity'), p_recorded_at)
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             run_id uuid, artifact_id uuid, name text, kind text, bytes bigint, sha256 text, media_type text,
             caption text, blob_id uuid, part_bytes integer, at timestamptz)
    where p_position[x.event] is not null;
end $$;
