-- Imports of a project, newest first. $1 ledger, $2 one import or NULL, $3 and $4 behind this (created at, id) or NULL,
-- $5 at most.
select
    i.import_id, i.ledger_id, i.actor, i.bytes, i.dry_run, i.state, i.runs_done, i.runs, i.rows_done, i.report,
    i.created_at, i.changed_at, coalesce(u.received, case when i.state = 'uploading' then 0 else i.bytes end) as received
from operation.import_job i
left join operation.upload u on u.upload_id = i.import_id and not u.removing
where i.ledger_id = $1 and ($2::uuid is null or i.import_id = $2)
  and ($3::timestamptz is null or (i.created_at, i.import_id) < ($3, $4))
  and (i.state <> 'uploading' or u.upload_id is not null)
order by i.created_at desc, i.import_id desc limit $5
