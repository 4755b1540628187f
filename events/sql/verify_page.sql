-- A page of a ledger with its sealed payloads, for verification: at most $3 events and, after the first, at most $4
-- bytes of payload. `leaf` is what the event's body is the hash of, column by column as `codec.leaf_body` puts it
-- together; a time that is not finite counts as 0. $1 ledger, $2 after position. Zero rows: nothing after that position.
select s.leaf, s.event_id, s.stream, s.version, s.type, s.commitment, s.position, s.recorded_us, s.chain, s.salt,
       s.ciphertext
from (
    select 'tachograph.leaf.1'::bytea
               || coalesce('\x00000010'::bytea || uuid_send(e.ledger_id), '\xffffffff')
               || coalesce('\x00000010'::bytea || uuid_send(e.event_id), '\xffffffff')
               || coalesce('\x00000010'::bytea || uuid_send(e.stream), '\xffffffff')
               || coalesce('\x00000008'::bytea || int8send(e.version::bigint), '\xffffffff')
               || coalesce(int4send(octet_length(convert_to(e.type, 'UTF8'))) || convert_to(e.type, 'UTF8'), '\xffffffff')
               || coalesce('\x00000008'::bytea || int8send(e.schema_version::bigint), '\xffffffff')
               || coalesce(int4send(octet_length(convert_to(e.actor, 'UTF8'))) || convert_to(e.actor, 'UTF8'), '\xffffffff')
               || coalesce(int4send(octet_length(convert_to(e.cause, 'UTF8'))) || convert_to(e.cause, 'UTF8'), '\xffffffff')
               || coalesce('\x00000010'::bytea || uuid_send(e.correlation_id), '\xffffffff')
               || coalesce('\x00000010'::bytea || uuid_send(e.causation_id), '\xffffffff')
               || coalesce('\x00000008'::bytea || int8send(e.epoch::bigint), '\xffffffff')
               || coalesce(int4send(octet_length(convert_to(e.source, 'UTF8'))) || convert_to(e.source, 'UTF8'), '\xffffffff')
               || coalesce('\x00000008'::bytea || int8send(e.seq::bigint), '\xffffffff')
               || coalesce('\x00000008'::bytea || int8send(e.part::bigint), '\xffffffff')
               || '\x00000008' || int8send(case when isfinite(e.occurred_at) then (extract(epoch from e.occurred_at) * 1000000)::bigint else 0 end)
               || int4send(length(e.commitment)) || e.commitment as leaf,
           e.event_id, e.stream, e.version, e.type, e.commitment, e.position, e.chain,
           case when isfinite(e.recorded_at) then (extract(epoch from e.recorded_at) * 1000000)::bigint else 0 end as recorded_us,
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
