-- Ids and versions of the runs in some of the active states. $1 statuses.
select run_id, version from run where status = any($1)
