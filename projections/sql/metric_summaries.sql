-- The metrics of a run by name. $1 ledger, $2 run.
select * from metric_summary where ledger_id = $1 and run_id = $2 order by name
