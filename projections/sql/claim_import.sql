-- Take the import that waits longest, or one whose process died, for a while. $1 holder, $2 seconds.
update operation.import_job
set state = 'running', holder = $1, held_until = clock_timestamp() + make_interval(secs => $2),
    attempts = attempts + 1, changed_at = clock_timestamp()
where import_id = (
    select import_id from operation.import_job
    where state in ('waiting', 'running') and held_until < clock_timestamp()
    order by created_at limit 1 for update skip locked
)
returning import_id, ledger_id, bytes, dry_run, attempts
