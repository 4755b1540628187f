-- The rows of telemetry events, and the head moved behind them, in one statement: what an append writes, without what
-- makes it a ledger. Nothing is judged or chained. $1 is the ledger, $2 the events as `ledger.proposed_event[]`.
with head as (
    update ledger.head h
    set position = h.position + cardinality($2::ledger.proposed_event[]), recorded_at = clock_timestamp()
    where h.ledger_id = $1
    returning h.position - cardinality($2::ledger.proposed_event[]) as before, h.recorded_at
), event as (
    insert into ledger.event
    select $1, h.before + e.ordinality, e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause,
           e.correlation_id, e.causation_id, e.epoch, e.source, e.seq, e.part, e.occurred_at, h.recorded_at,
           e.commitment, e.body
    from head h, rows from (unnest($2::ledger.proposed_event[])) with ordinality e
)
insert into ledger.telemetry
select $1, e.stream, h.before + e.ordinality, h.recorded_at, e.salt, e.request, e.ciphertext
from head h, rows from (unnest($2::ledger.proposed_event[])) with ordinality e
