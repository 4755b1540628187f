-- A page of a ledger with its sealed payloads, for verification: at most $3 events and, after the first, at most $4
-- bytes of payload. First come the columns that `codec.body` takes after the ledger's id, in its order and as it takes
-- them: ids as their bytes, times as the 8 bytes of their microseconds since 1970 (Postgres counts from 2000, 262,968 hours
-- later; one that is too far off, or not finite, becomes another that is). $1 ledger, $2 after position. Zero rows: nothing
-- after that position.
select s.* from (
    select uuid_send(e.event_id) as event_id, uuid_send(e.stream) as stream, e.version, e.type, e.schema_version, e.actor,
           e.cause, uuid_send(e.correlation_id) as correlation_id, uuid_send(e.causation_id) as causation_id, e.epoch,
           e.source, e.seq, e.part,
           timestamptz_send(least(e.occurred_at, '290000-01-01 00:00Z') + interval '262968 hours') as occurred,
           e.commitment, e.position,
           timestamptz_send(least(e.recorded_at, '290000-01-01 00:00Z') + interval '262968 hours') as recorded,
           e.chain, coalesce(p.salt, t.salt) as salt, coalesce(p.ciphertext, t.ciphertext) as ciphertext,
           p.stream is not null and (p.stream <> e.stream or e.version is null) as astray,
           coalesce(
               sum(coalesce(length(p.ciphertext), length(t.ciphertext)))
                   over (order by e.position rows between unbounded preceding and 1 preceding), 0) as before
    from (
        select *, case when seq is not null then recorded_at end as batch
        from ledger.event where ledger_id = $1 and position > $2 order by position limit $3
    ) e
    left join ledger.payload p on p.ledger_id = $1 and p.position = e.position
    left join ledger.telemetry t on t.ledger_id = $1 and t.stream = e.stream and t.position = e.position
        and t.recorded_at = e.batch
) s
where s.before < $4
order by s.position
