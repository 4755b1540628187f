-- Several runs. $1 ids.
select * from run where run_id = any($1)
