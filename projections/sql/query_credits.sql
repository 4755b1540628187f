-- A page of what a project's runs that are not deleted cost, as the states to go on from. $1 ledger, $2 after run,
-- $3 how many. Zero rows: no more.
select c.run_id, c.workflow_id, r.status, c.accruing, c.state
from run_credit c
join run r on r.ledger_id = c.ledger_id and r.run_id = c.run_id and r.status <> 'deleted'
where c.ledger_id = $1 and c.run_id > $2
order by c.run_id limit $3
