-- A project's sweeps, newest first. $1 ledger, $2 $3 the creation and id of the last one seen, NULL at first, $4 limit.
select * from sweep
where ledger_id = $1 and ($2::timestamptz is null or (created_at, sweep_id) < ($2, $3::uuid))
order by created_at desc, sweep_id desc limit $4
