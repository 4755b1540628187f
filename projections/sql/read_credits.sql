-- The credit states of some runs. $1 ledger, $2 runs.
select run_id, state from run_credit where ledger_id = $1 and run_id = any($2)
