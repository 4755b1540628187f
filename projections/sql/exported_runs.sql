-- A ledger's runs that are not deleted, by id, a page at a time. $1 ledger, $2 the last run seen, $3 limit.
select run_id from run where ledger_id = $1 and status <> 'deleted' and run_id > $2 order by run_id limit $3
