-- The ledgers that hold events which a projection has not passed, with its position. $1 projection.
select h.ledger_id, coalesce(c.position, 0) as position, h.position as head
from ledger.head h
left join checkpoint c on c.projection = $1 and c.ledger_id = h.ledger_id
where h.position > coalesce(c.position, 0)
order by h.ledger_id
