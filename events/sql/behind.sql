-- The ledgers that hold events which a reader has not passed, with its position. $1 reader.
select h.ledger_id, coalesce(c.position, 0) as position, h.position as head
from ledger.head h
left join ledger.cursor c on c.reader = $1 and c.ledger_id = h.ledger_id
where h.position > coalesce(c.position, 0)
