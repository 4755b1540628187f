-- One run. $1 its id.
select * from run where run_id = $1
