-- What copies of roles say of themselves. $1 roles, $2 instance, $3 leading, $4 failures in a row, $5 restarts,
-- $6 last errors, $7 times of the last good step. Copies that have been silent for an hour are forgotten.
with forgotten as (
    delete from operation.role where said_at < clock_timestamp() - interval '1 hour'
)
insert into operation.role (role, instance, leads, failures, restarts, last_error, stepped_at)
select * from unnest($1::text[], $2::text[], $3::boolean[], $4::integer[], $5::bigint[], $6::text[], $7::timestamptz[])
on conflict (role, instance) do update
    set leads = excluded.leads, failures = excluded.failures, restarts = excluded.restarts,
        last_error = excluded.last_error, stepped_at = excluded.stepped_at, said_at = clock_timestamp()
