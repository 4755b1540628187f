-- Runs of all projects in some of the active states, oldest first. $1 statuses.
select * from run where status = any($1) order by created_at, run_id
