-- A run's status with the Parquet files of one kind that count, in order: one statement, so one snapshot.
-- $1 ledger, $2 run, $3 kind. Zero rows: no such run; one row without a file: nothing is archived yet.
select r.status, s.segment_id, s.path, s.rows, s.first_position, s.last_position, s.bytes,
       s.sha256, s.levels_path, s.levels_bytes, s.levels_sha256
from run r
left join segment s on s.ledger_id = r.ledger_id and s.run_id = r.run_id and s.kind = $3
where r.ledger_id = $1 and r.run_id = $2
order by s.first_position
