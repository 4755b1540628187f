-- A payload that stands beyond its ledger's head. $1 ledger. Zero rows: none.
select p.position from ledger.head h join ledger.payload p on p.ledger_id = h.ledger_id and p.position > h.position
where h.ledger_id = $1 order by p.position limit 1
