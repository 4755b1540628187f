-- Status history of a run. $1 ledger, $2 run.
select * from run_transition where ledger_id = $1 and run_id = $2 order by version
