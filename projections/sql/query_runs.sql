-- A page of a project's runs that are not deleted. $1 ledger, $2 after run, $3 how many. Zero rows: no more.
select * from run where ledger_id = $1 and run_id > $2 and status <> 'deleted' order by run_id limit $3
