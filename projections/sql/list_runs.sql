-- Runs of a project, newest first. $1 ledger, $2 statuses or NULL, $3 workflow or NULL, $4 and $5 the key of the last
-- run seen, $6 limit. Deleted runs only when asked for.
select * from run
where ledger_id = $1
  and case when $2::text[] is null then status <> 'deleted' else status = any($2) end
  and ($3::uuid is null or workflow_id = $3)
  and (created_at, run_id) < ($4, $5)
order by created_at desc, run_id desc limit $6
