-- Write what runs cost. $1 ledger, then one element a run: $2 run, $3 workflow, $4 status, $5 accruing, $6 consumed,
-- $7 estimate, $8 saved, $9 state.
insert into run_credit
select $1, r.* from unnest($2::uuid[], $3::uuid[], $4::text[], $5::boolean[], $6::bigint[], $7::bigint[], $8::bigint[],
                           $9::bytea[]) as r
on conflict (ledger_id, run_id) do update set
    (workflow_id, status, accruing, consumed_micro, estimate_micro, saved_micro, state)
    = row (excluded.workflow_id, excluded.status, excluded.accruing, excluded.consumed_micro,
           excluded.estimate_micro, excluded.saved_micro, excluded.state)
