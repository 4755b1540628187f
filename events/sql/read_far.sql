-- Like read_ledger.sql, for one stream ($7) over a long span: by the stream's own indexes, so that the size of the
-- ledger around it does not matter.
with mine as materialized (
    select * from ledger.event where ledger_id = $1 and stream = $7 and version is not null
    union all
    select * from ledger.event where ledger_id = $1 and stream = $7 and seq is not null
)
select s.* from (
    select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at,
           coalesce(p.ciphertext, t.ciphertext) as ciphertext, e.event_id, e.ledger_id, e.correlation_id,
           e.causation_id, e.source, e.seq, e.part, e.occurred_at, e.commitment,
           sum(coalesce(length(p.ciphertext), length(t.ciphertext), 0)) over (order by e.position)
               - coalesce(length(p.ciphertext), length(t.ciphertext), 0) as before
    from (
        select *, case when version is not null then position end as fact, case when seq is not null then recorded_at end
            as batch
        from mine
        where position > $2 and position <= $3 and ($6::text[] is null or type = any($6))
        order by position limit $4
    ) e
    left join ledger.payload p on $5 and p.ledger_id = e.ledger_id and p.position = e.fact
    left join ledger.telemetry t on $5 and t.ledger_id = e.ledger_id and t.stream = e.stream and t.position = e.position
        and t.recorded_at = e.batch
) s
where s.before < $8
order by s.position
