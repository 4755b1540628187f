-- Let nobody write any more to uploads that nobody touched for $1 seconds; also those whose removal died. At most $2.
-- `saved` ones are the content of an artifact: only their row goes.
update operation.upload u set removing = true
where upload_id in (
    select upload_id from operation.upload
    where (touched_at < clock_timestamp() - make_interval(secs => $1) or removing) and held_until < clock_timestamp()
    order by touched_at limit $2
) and held_until < clock_timestamp()
returning upload_id, ledger_id, run_id, exists (select from artifact where blob_id = u.upload_id) as saved
