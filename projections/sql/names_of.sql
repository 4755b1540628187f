-- What workflows and workers are called now. $1 their ids.
select workflow_id as id, name from workflow where workflow_id = any($1)
union all
select worker_id, name from worker where worker_id = any($1)
