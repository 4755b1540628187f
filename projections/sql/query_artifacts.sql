-- A page of the artifacts of a project's runs that are not deleted. $1 ledger, $2 after artifact, $3 how many.
-- Zero rows: no more.
select a.*
from artifact a
join run r on r.ledger_id = a.ledger_id and r.run_id = a.run_id and r.status <> 'deleted'
where a.ledger_id = $1 and a.artifact_id > $2
order by a.artifact_id limit $3
