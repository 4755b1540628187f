-- Where runs stand in their organisation's queue and why they wait, in the queue's order. $1 organisation, $2 runs or
-- NULL for all, $3 limit, $4 projects or NULL for all. A run that the scheduler has not looked at yet has no reason.
select q.run_id, q.ledger_id, q.position, q.priority, q.created_at, w.reason, w.scope, w.bound, w.in_use, w.since
from (
    select d.*, row_number() over (order by d.priority desc, d.created_at, d.run_id) as position
    from demand d where d.waiting and d.organisation_id = $1
) q
left join operation.waiting w on w.run_id = q.run_id
where ($2::uuid[] is null or q.run_id = any($2)) and ($4::uuid[] is null or q.ledger_id = any($4))
order by q.position limit $3
