-- A payload in front of a ledger's first position or beyond its head. $1 ledger. Zero rows: none.
(select position from ledger.payload where ledger_id = $1 and position < 1 limit 1)
union all
(select p.position from ledger.head h join ledger.payload p on p.ledger_id = h.ledger_id and p.position > h.position
 where h.ledger_id = $1 limit 1)
