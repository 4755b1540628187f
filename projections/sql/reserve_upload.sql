-- Reserve room for an upload if its run and every limit allow it; the run cannot be deleted meanwhile. The caller holds
-- the organisation's lock, so that no two take the last of a quota. $1 upload, $2 ledger, $3 run, $4 organisation,
-- $5 bytes, $6 description, $7 to $10 the most: artifacts and uploads of the run, bytes of the project and of the
-- organisation. One row: the run's status, what was taken before, and whether there was room. Zero rows: no such run.
with one as (
    select status from run where ledger_id = $2 and run_id = $3 for share
), taken as (
    select b.project as project_bytes, b.organisation as organisation_bytes,
           (select count(*) from artifact where ledger_id = $2 and run_id = $3) as artifacts,
           (select count(*) from operation.upload where ledger_id = $2 and run_id = $3) as uploads
    from operation.stored_bytes($2, $4) b
), made as (
    insert into operation.upload (upload_id, ledger_id, run_id, organisation_id, bytes, description)
    select $1, $2, $3, $4, $5, $6 from one, taken
    where status <> 'deleted' and artifacts < $7 and uploads < $8
      and project_bytes + $5 <= $9 and organisation_bytes + $5 <= $10
    returning 1
)
select status, artifacts, uploads, project_bytes, organisation_bytes, exists (select from made) as made from one, taken
