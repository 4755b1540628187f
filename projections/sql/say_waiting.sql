-- Write why runs wait: $1 runs, $2 reasons, $3 scopes, $4 bounds, $5 in use; and forget the runs $6.
with gone as (delete from operation.waiting where run_id = any($6))
insert into operation.waiting
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
on conflict (run_id) do update set
    since = case when waiting.reason = excluded.reason then waiting.since else clock_timestamp() end,
    reason = excluded.reason, scope = excluded.scope, bound = excluded.bound, in_use = excluded.in_use
