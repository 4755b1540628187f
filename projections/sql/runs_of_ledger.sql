-- Some runs of a ledger. $1 ledger, $2 runs.
select * from run where ledger_id = $1 and run_id = any($2)
