-- A stream's telemetry batches that are still in Postgres, in order. $1 ledger, $2 stream, $3 after position,
-- $4 limit, $5 types or NULL.
select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at, t.ciphertext, e.event_id,
       e.ledger_id, e.correlation_id, e.causation_id, e.source, e.seq, e.part, e.occurred_at, e.commitment
from ledger.telemetry t
join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
where t.ledger_id = $1 and t.stream = $2 and t.position > $3 and ($5::text[] is null or e.type = any($5))
order by t.position limit $4
