-- Projections of ledgers that have not passed all events, with how many positions they are behind. $1 projections.
select p.projection, h.ledger_id, h.position - coalesce(c.position, 0) as lag
from ledger.head h cross join unnest($1::text[]) with ordinality as p(projection, place)
left join checkpoint c on c.projection = p.projection and c.ledger_id = h.ledger_id
where h.position > coalesce(c.position, 0)
order by p.place, h.ledger_id
