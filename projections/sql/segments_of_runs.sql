-- Where the ledger stands, and runs' status with the Parquet files of one kind that count, in order, and whether there
-- are batches behind them: one statement, so one snapshot. $1 ledger, $2 runs, $3 kind, $4 the types that it holds. A
-- run without a row is none; one row without a file: nothing is archived.
with asked as materialized (
    select r.run_id, r.status,
           exists (
               select 1 from ledger.telemetry t
               join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
               where t.ledger_id = $1 and t.stream = r.run_id and e.type = any($4) and t.position > coalesce((
                   select max(s.last_position) from segment s
                   where s.ledger_id = $1 and s.run_id = r.run_id and s.kind = $3), 0)
           ) as hot
    from run r where r.ledger_id = $1 and r.run_id = any($2)
)
select h.position as head, a.run_id, a.status, a.hot, s.segment_id, s.path, s.rows, s.first_position, s.last_position,
       s.bytes, s.sha256, s.levels_path, s.levels_bytes, s.levels_sha256
from ledger.head h
cross join asked a
left join segment s on s.ledger_id = $1 and s.run_id = a.run_id and s.kind = $3
where h.ledger_id = $1
order by s.first_position
