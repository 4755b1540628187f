-- Reserve room for an archive that is to be imported, if every limit allows it. The caller holds the organisation's
-- lock, so that no two take the last of a quota. $1 import, $2 ledger, $3 organisation, $4 bytes, $5 description,
-- $6 actor, $7 dry run, $8 to $10 the most: imports of the project under way, bytes of the project and of the
-- organisation. One row: what was taken before, and whether there was room.
with taken as (
    select b.project as project_bytes, b.organisation as organisation_bytes,
           (select count(*) from operation.import_job
            where ledger_id = $2 and state in ('uploading', 'waiting', 'running')) as imports
    from operation.stored_bytes($2, $3) b
), made as (
    insert into operation.import_job (import_id, ledger_id, actor, bytes, dry_run)
    select $1, $2, $6, $4, $7 from taken
    where imports < $8 and project_bytes + $4 <= $9 and organisation_bytes + $4 <= $10
    on conflict do nothing
    returning import_id
), room as (
    insert into operation.upload (upload_id, ledger_id, run_id, organisation_id, bytes, description)
    select import_id, $2, $2, $3, $4, $5 from made
)
select imports, project_bytes, organisation_bytes, exists (select from made) as made from taken
