-- A page of a ledger's stream rows, each with what its events say: last version and its position, attempt, deletion.
-- After a deletion only its receipt can come; what `remains` after that ought to be gone. $1 ledger, $2 after stream,
-- $3 limit. Zero rows: no more streams.
select s.stream, s.version, s.epoch, s.gate, e.version as last, e.position, coalesce(a.epoch, 0) as attempt,
       coalesce(e.type in ('run.deleted', 'run.purged'), false) as deleted,
       case when e.type is distinct from 'run.purged' then null
            when exists (select from ledger.data_key k where k.ledger_id = $1 and k.stream = s.stream) then 'the key'
            when exists (select from ledger.telemetry t where t.ledger_id = $1 and t.stream = s.stream) then 'telemetry'
            when exists (
                select from ledger.payload p join ledger.event o on o.ledger_id = $1 and o.position = p.position
                where p.ledger_id = $1 and p.stream = s.stream and o.type not in ('run.deleted', 'run.purged')
            ) then 'a payload'
       end as remains
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
