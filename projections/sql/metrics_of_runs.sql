-- Some metrics of some runs. $1 ledger, $2 runs, $3 names.
select * from metric_summary where ledger_id = $1 and run_id = any($2) and name = any($3)
