-- What the archiver must know of a ledger's events after a position, without their payloads: telemetry with its
-- size, and what tells that a run ended or came back. $1 ledger, $2 after position, $3 limit.
select e.position, e.stream, e.type, e.recorded_at, e.seq is not null as telemetry,
       coalesce(length(t.ciphertext), 0) as bytes
from (
    select * from ledger.event where ledger_id = $1 and position > $2 order by position limit $3
) e
left join ledger.telemetry t on e.seq is not null and t.ledger_id = e.ledger_id and t.stream = e.stream
    and t.position = e.position and t.recorded_at = e.recorded_at
order by e.position
