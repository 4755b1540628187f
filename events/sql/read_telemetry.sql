-- A stream's telemetry batches that are still in Postgres, in order. $1 ledger, $2 stream, $3 after position,
-- $4 limit, $5 types or NULL.
select e.ledger_id, e.position, e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause,
       e.correlation_id, e.causation_id, e.epoch, e.source, e.seq, e.part, e.occurred_at, e.recorded_at, e.commitment,
       e.chain, t.salt, t.ciphertext
from ledger.telemetry t
join ledger.event e on e.ledger_id = t.ledger_id and e.position = t.position
where t.ledger_id = $1 and t.stream = $2 and t.position > $3 and ($5::text[] is null or e.type = any($5))
order by t.position limit $4
