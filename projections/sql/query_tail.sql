-- A page of the telemetry batches of a project that are in no Parquet file yet, payloads sealed, run by run.
-- $1 ledger, $2 kind of file, $3 the types that it holds, $4 after run, $5 after position, $6 how many. Zero rows: no more.
select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at, t.ciphertext, e.event_id,
       e.ledger_id, e.correlation_id, e.causation_id, e.source, e.seq, e.part, e.occurred_at, e.commitment
from ledger.telemetry t
join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
join run r on r.ledger_id = t.ledger_id and r.run_id = t.stream and r.status <> 'deleted'
left join lateral (
    select max(s.last_position) as position from segment s
    where s.ledger_id = t.ledger_id and s.run_id = t.stream and s.kind = $2
) archived on true
where t.ledger_id = $1 and (t.stream, t.position) > ($4, $5) and e.type = any($3)
  and t.position > coalesce(archived.position, 0)
order by t.stream, t.position limit $6
