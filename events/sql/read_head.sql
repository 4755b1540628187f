-- A ledger's head. $1 ledger. Zero rows: no such ledger.
select position, chain, recorded_at from ledger.head where ledger_id = $1
