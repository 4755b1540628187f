-- A ledger's runs that existed at a position and are not deleted, by id, a page at a time. $1 ledger, $2 the last run
-- seen, $3 position, $4 limit.
select r.run_id
from run r
join run_transition t on t.ledger_id = r.ledger_id and t.run_id = r.run_id and t.version = 1 and t.position <= $3
where r.ledger_id = $1 and r.status <> 'deleted' and r.run_id > $2
order by r.run_id limit $4
