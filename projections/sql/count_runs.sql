-- How many runs a project has. $1 ledger, $2 whether archived runs are left out.
select count(*) from run where ledger_id = $1 and status <> 'deleted' and not ($2 and archived)
