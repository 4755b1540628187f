-- A page of a ledger with its sealed payloads, for verification: at most $3 events and, after the first, at most $4
-- bytes of payload; the columns of the leaf come first, in its order. $1 ledger, $2 after position. Zero rows: nothing after that position.
select s.* from (
    select e.ledger_id, e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause,
           e.correlation_id, e.causation_id, e.epoch, e.source, e.seq, e.part, e.occurred_at, e.commitment,
           e.position, e.recorded_at, e.chain,
           coalesce(p.salt, t.salt) as salt, coalesce(p.ciphertext, t.ciphertext) as ciphertext,
           sum(coalesce(length(p.ciphertext), length(t.ciphertext), 0)) over (order by e.position)
               - coalesce(length(p.ciphertext), length(t.ciphertext), 0) as before
    from (select * from ledger.event where ledger_id = $1 and position > $2 order by position limit $3) e
    left join ledger.payload p on e.seq is null and p.ledger_id = e.ledger_id and p.position = e.position
    left join ledger.telemetry t on e.seq is not null and t.ledger_id = e.ledger_id and t.stream = e.stream
        and t.position = e.position and t.recorded_at = e.recorded_at
) s
where s.before < $4
order by s.position
