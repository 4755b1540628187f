-- Forget the metrics of deleted runs. $1 ledger, $2 runs.
delete from metric_summary where ledger_id = $1 and run_id = any($2)
