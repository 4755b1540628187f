-- A page of a ledger's stream rows, each with what its events say: last version and its position, attempt, deletion.
-- After a deletion only its receipt can come. $1 ledger, $2 after stream, $3 limit. Zero rows: no more streams.
select s.stream, s.version, s.epoch, s.gate, e.version as last, e.position, coalesce(a.epoch, 0) as attempt,
       coalesce(e.type in ('run.deleted', 'run.purged'), false) as deleted
from (
    select * from ledger.stream where ledger_id = $1 and stream > $2 order by stream limit $3
) s
left join lateral (
    select e.version, e.position, e.type from ledger.event e
    where e.ledger_id = $1 and e.stream = s.stream and e.version is not null
    order by e.version desc limit 1
) e on true
left join lateral (
    select e.epoch from ledger.event e
    where e.ledger_id = $1 and e.stream = s.stream and e.version is not null and e.epoch is not null
    order by e.version desc limit 1
) a on true
order by s.stream
