-- A page of a ledger with its sealed payloads, for verification: at most $3 events and, after the first, at most $4
-- bytes of payload. First come the columns that `codec.body` takes, in its order; times are microseconds since the
-- epoch, and one that is not finite counts as 0. $1 ledger, $2 after position. Zero rows: nothing after that position.
select s.* from (
    select e.ledger_id, e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.correlation_id,
           e.causation_id, e.epoch, e.source, e.seq, e.part,
           case when isfinite(e.occurred_at) then (extract(epoch from e.occurred_at) * 1000000)::bigint else 0 end
               as occurred_us,
           e.commitment, e.position,
           case when isfinite(e.recorded_at) then (extract(epoch from e.recorded_at) * 1000000)::bigint else 0 end
               as recorded_us,
           e.chain, coalesce(p.salt, t.salt) as salt, coalesce(p.ciphertext, t.ciphertext) as ciphertext,
           sum(coalesce(length(p.ciphertext), length(t.ciphertext), 0)) over (order by e.position)
               - coalesce(length(p.ciphertext), length(t.ciphertext), 0) as before
    from (select * from ledger.event where ledger_id = $1 and position > $2 order by position limit $3) e
    left join ledger.payload p on e.seq is null and p.ledger_id = e.ledger_id and p.position = e.position
    left join ledger.telemetry t on e.seq is not null and t.ledger_id = e.ledger_id and t.stream = e.stream
        and t.position = e.position and t.recorded_at = e.recorded_at
) s
where s.before < $4
order by s.position
