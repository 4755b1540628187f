-- A project's workflows by name. $1 ledger, $2 the last name seen, $3 whether archived or NULL for all, $4 limit.
select * from workflow
where ledger_id = $1 and name > $2 and ($3::boolean is null or archived = $3)
order by name limit $4
