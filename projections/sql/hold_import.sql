-- Keep an import, and say how far it is; its archive is in use. $1 import, $2 holder, $3 seconds, $4 runs done, $5 runs,
-- $6 rows done. Zero rows: it was taken away, or is no more.
with kept as (
    update operation.import_job
    set held_until = clock_timestamp() + make_interval(secs => $3), runs_done = $4, runs = $5, rows_done = $6,
        changed_at = clock_timestamp()
    where import_id = $1 and holder = $2 and state = 'running'
    returning import_id
), used as (
    update operation.upload set touched_at = clock_timestamp() where upload_id in (select import_id from kept)
)
select import_id from kept
