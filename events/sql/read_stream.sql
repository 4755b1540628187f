-- A stream's lifecycle events in order, payloads sealed. $1 ledger, $2 stream, $3 after version, $4 up to version.
select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at, p.ciphertext, e.event_id,
       e.ledger_id, e.correlation_id, e.causation_id, e.source, e.seq, e.part, e.occurred_at, e.commitment
from ledger.event e
left join ledger.payload p on p.ledger_id = e.ledger_id and p.position = e.position
where e.ledger_id = $1 and e.stream = $2 and e.version > $3 and e.version <= $4
order by e.version
