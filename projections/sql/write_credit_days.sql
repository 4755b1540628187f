-- Write what runs cost on single days. $1 ledger, then one element a run and day: $2 run, $3 day, $4 consumed.
insert into credit_day
select $1, d.* from unnest($2::uuid[], $3::date[], $4::bigint[]) as d
on conflict (ledger_id, run_id, day) do update set consumed_micro = excluded.consumed_micro
