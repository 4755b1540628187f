-- The newest artifact of a run with a name. $1 ledger, $2 run, $3 name. Zero rows: there is none.
select * from artifact where ledger_id = $1 and run_id = $2 and name = $3 order by position desc limit 1
