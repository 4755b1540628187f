-- Batches of runs that are still in Postgres, run by run as given, each run's in order. $1 ledger, $2 runs, $3 the
-- position behind which each begins, $4 the last position that counts, $5 types, $6 limit. Fewer rows: no more.
select t.*
from unnest($2::uuid[], $3::bigint[]) with ordinality w (stream, after, number)
cross join lateral (
    select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at,
           one.ciphertext, e.event_id, e.ledger_id, e.correlation_id, e.causation_id, e.source, e.seq, e.part,
           e.occurred_at, e.commitment
    from ledger.telemetry one
    join ledger.event e on e.ledger_id = one.ledger_id and e.position = one.position
    where one.ledger_id = $1 and one.stream = w.stream and one.position > w.after and one.position <= $4
      and e.type = any($5)
    order by one.position limit $6
) t
order by w.number, t.position limit $6
