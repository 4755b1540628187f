-- A page of the status changes of a project's runs that are not deleted. $1 ledger, $2 after run, $3 after version,
-- $4 how many. Zero rows: no more.
select t.*
from run_transition t
join run r on r.ledger_id = t.ledger_id and r.run_id = t.run_id and r.status <> 'deleted'
where t.ledger_id = $1 and (t.run_id, t.version) > ($2, $3)
order by t.run_id, t.version limit $4
