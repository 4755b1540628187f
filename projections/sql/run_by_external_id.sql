-- One run by the id its client gave it. $1 ledger, $2 external id.
select * from run where ledger_id = $1 and external_id = $2
