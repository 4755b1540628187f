-- A stream's lifecycle events in order, payloads sealed. $1 ledger, $2 stream, $3 after version, $4 up to version.
select e.ledger_id, e.position, e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause,
       e.correlation_id, e.causation_id, e.epoch, e.source, e.seq, e.part, e.occurred_at, e.recorded_at, e.commitment,
       e.chain, p.salt, p.ciphertext
from ledger.event e
left join ledger.payload p on p.ledger_id = e.ledger_id and p.position = e.position
where e.ledger_id = $1 and e.stream = $2 and e.version > $3 and e.version <= $4
order by e.version
