-- An artifact of a run that has this content already. $1 ledger, $2 run, $3 SHA-256, $4 bytes. Zero rows: there is none.
select * from artifact where ledger_id = $1 and run_id = $2 and sha256 = $3 and bytes = $4 order by position limit 1
