-- A page of a ledger's lifecycle events in order, with what a fold needs of each, payloads sealed, optionally of some
-- types ($5): at most $4 events and, after the first, at most $6 bytes of payload. $1 ledger, $2 after position,
-- $3 up to position. Zero rows: nothing there.
select s.* from (
    select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at, p.ciphertext,
           uuid_send(e.event_id) as event_id,
           coalesce(sum(length(p.ciphertext)) over (order by e.position rows between unbounded preceding and 1 preceding), 0)
               as before
    from (
        select * from ledger.event
        where ledger_id = $1 and position > $2 and position <= $3 and version is not null
          and ($5::text[] is null or type = any($5))
        order by position limit $4
    ) e
    left join ledger.payload p on p.ledger_id = $1 and p.position = e.position
) s
where s.before < $6
order by s.position
