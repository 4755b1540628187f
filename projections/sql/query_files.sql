-- A project's runs that are not deleted, with the Parquet files of one kind that count: one statement, so one snapshot.
-- $1 ledger, $2 kind.
select r.run_id, s.path, s.bytes, s.sha256, s.last_position
from run r
left join segment s on s.ledger_id = r.ledger_id and s.run_id = r.run_id and s.kind = $2
where r.ledger_id = $1 and r.status <> 'deleted'
order by r.run_id, s.first_position
