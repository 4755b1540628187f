-- Give an import back before its end: another process may take it after $3 seconds. $1 import, $2 holder, $4 whether
-- this was an attempt.
update operation.import_job
set state = 'waiting', holder = null, held_until = clock_timestamp() + make_interval(secs => $3),
    attempts = attempts - case when $4 then 0 else 1 end, changed_at = clock_timestamp()
where import_id = $1 and holder = $2 and state = 'running'
