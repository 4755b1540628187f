-- A project's run by its name. $1 ledger, $2 name. No row: there is none, or it was deleted.
select * from run where ledger_id = $1 and name = $2
