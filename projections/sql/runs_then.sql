-- A project's runs as they stood at a position, newest first, each with the status that it had then. $1 ledger,
-- $2 statuses or NULL, $3 workflow or NULL, $4 position, $5 the time of that moment, $6 the last run seen or NULL,
-- $7 limit. Runs that were deleted by then only when asked for; of those deleted since, what their metadata keeps.
select r.*, t.to_status as status_then
from run r
join lateral (
    select to_status from run_transition
    where ledger_id = r.ledger_id and run_id = r.run_id and position <= $4
    order by version desc limit 1
) t on true
where r.ledger_id = $1 and r.created_at <= $5
  and case when $2::text[] is null then t.to_status <> 'deleted' else t.to_status = any($2) end
  and ($3::uuid is null or r.workflow_id = $3
       or r.status = 'deleted' and exists (select from run_credit where run_id = r.run_id and workflow_id = $3))
  and ($6::uuid is null
       or (r.created_at, r.run_id) < (select created_at, run_id from run where ledger_id = $1 and run_id = $6))
order by r.created_at desc, r.run_id desc limit $7
