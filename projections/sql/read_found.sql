-- What each store gave up of a run. $1 ledger, $2 run.
select store, objects, bytes from purge where ledger_id = $1 and run_id = $2 order by store
