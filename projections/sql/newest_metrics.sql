-- The position of each run's newest batch of metrics (0 for none), and whether it is in no Parquet file yet.
-- $1 ledger, $2 runs, $3 kind, $4 the types that it holds. One row a run, as given.
select greatest(archived.position, coalesce(tail.position, 0)) as position, tail.position is not null as hot
from unnest($2::uuid[]) with ordinality w (run_id, number)
cross join lateral (
    select coalesce(max(s.last_position), 0) as position from segment s
    where s.ledger_id = $1 and s.run_id = w.run_id and s.kind = $3
) archived
left join lateral (
    select t.position from ledger.telemetry t
    join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
    where t.ledger_id = $1 and t.stream = w.run_id and t.position > archived.position and e.type = any($4)
    order by t.position desc limit 1
) tail on true
order by w.number
