-- Say how much of an upload is durable, and be the only one to write to it for a while. $1 upload, $2 holder, $3 bytes
-- that were durable, $4 bytes that are now, $5 seconds. Zero rows: somebody else writes, it is at another place, it is
-- being removed, it is gone, or its run was deleted.
update operation.upload u
set received = $4, holder = $2, held_until = clock_timestamp() + make_interval(secs => $5),
    touched_at = clock_timestamp()
where upload_id = $1 and received = $3 and not removing and (holder = $2 or held_until < clock_timestamp())
  and not exists (select from run r where r.ledger_id = u.ledger_id and r.run_id = u.run_id and r.status = 'deleted')
returning received
