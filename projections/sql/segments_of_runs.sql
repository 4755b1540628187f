-- Where the ledger stands, and runs' status with the Parquet files of one kind that count, in order: one statement, so
-- one snapshot. $1 ledger, $2 runs, $3 kind. A run without a row is none; one row without a file: nothing is archived.
select h.position as head, r.run_id, r.status, s.segment_id, s.path, s.rows, s.first_position, s.last_position, s.bytes,
       s.sha256, s.levels_path
from ledger.head h
join run r on r.ledger_id = h.ledger_id and r.run_id = any($2)
left join segment s on s.ledger_id = r.ledger_id and s.run_id = r.run_id and s.kind = $3
where h.ledger_id = $1
order by s.first_position
