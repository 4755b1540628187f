-- A page of a ledger in order, payloads sealed ($5: with payloads), optionally of some types ($6) or one stream ($7):
-- at most $4 events and, after the first, at most $8 bytes of payload. $1 ledger, $2 after position, $3 up to position.
-- Zero rows: nothing there. An event's payload is looked for in one place only: what is equal to NULL is not looked up.
select s.* from (
    select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at,
           coalesce(p.ciphertext, t.ciphertext) as ciphertext, e.event_id, e.ledger_id, e.correlation_id,
           e.causation_id, e.source, e.seq, e.part, e.occurred_at, e.commitment,
           sum(coalesce(length(p.ciphertext), length(t.ciphertext), 0)) over (order by e.position)
               - coalesce(length(p.ciphertext), length(t.ciphertext), 0) as before
    from (
        select *, case when version is not null then position end as fact, case when seq is not null then recorded_at end
            as batch
        from ledger.event
        where ledger_id = $1 and position > $2 and position <= $3 and ($6::text[] is null or type = any($6))
          and ($7::uuid is null or stream = $7)
        order by position limit $4
    ) e
    left join ledger.payload p on $5 and p.ledger_id = e.ledger_id and p.position = e.fact
    left join ledger.telemetry t on $5 and t.ledger_id = e.ledger_id and t.stream = e.stream and t.position = e.position
        and t.recorded_at = e.batch
) s
where s.before < $8
order by s.position
