-- How far a projection of a ledger is, and how far the ledger. $1 projection, $2 ledger. Zero rows: no such ledger.
select coalesce(c.position, 0) as position, h.position as head
from ledger.head h
left join checkpoint c on c.projection = $1 and c.ledger_id = h.ledger_id
where h.ledger_id = $2
