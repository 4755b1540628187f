-- The first artifact whose content lies in a blob. $1 ledger, $2 run, $3 blob. Zero rows: nothing was saved of it.
select * from artifact where blob_id = $3 and ledger_id = $1 and run_id = $2 order by position limit 1
