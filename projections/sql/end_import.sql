-- Say what became of an import. $1 import, $2 holder, $3 state, $4 report, $5 runs done, $6 runs, $7 rows done.
update operation.import_job
set state = $3, report = $4, runs_done = $5, runs = $6, rows_done = $7, holder = null, held_until = '-infinity',
    changed_at = clock_timestamp()
where import_id = $1 and holder = $2 and state = 'running'
