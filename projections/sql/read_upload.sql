-- An upload under way. $1 ledger, $2 run, $3 upload. Zero rows: there is none, or it is being removed.
select upload_id, ledger_id, run_id, bytes, received, description from operation.upload
where upload_id = $3 and ledger_id = $1 and run_id = $2 and not removing
