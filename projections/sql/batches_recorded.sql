-- How many batches of some sources were recorded of one attempt of a run, up to a position and to the last that each sent.
-- $1 ledger, $2 run, $3 epoch, $4 $5 sources and the last number of each, $6 position. A source with none has no row.
select e.source, count(distinct e.seq) as batches
from unnest($4::text[], $5::bigint[]) said(source, last)
join ledger.event e on e.ledger_id = $1 and e.stream = $2 and e.epoch = $3 and e.source = said.source
    and e.seq <= said.last and e.seq is not null and e.position <= $6
group by e.source
