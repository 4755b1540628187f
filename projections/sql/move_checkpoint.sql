-- Move a projection of a ledger on, unless somebody else has. $1 projection, $2 ledger, $3 from, $4 to.
-- Zero rows: it stands elsewhere.
update checkpoint set position = $4
where projection = $1 and ledger_id = $2 and position = $3 and $4 > $3
returning position
