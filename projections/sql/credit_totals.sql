-- What the runs of an organisation (or of one of its ledgers, or workflows) cost up to their last transitions, by
-- ledger and workflow (state NULL), and the states of the runs that accrue. One statement, so nothing is counted twice.
-- $1 organisation, $2 ledger or NULL, $3 workflow or NULL.
with mine as (
    select c.* from ledger.ledger l
    join run_credit c on c.ledger_id = l.ledger_id
    where l.organisation_id = $1 and ($2::uuid is null or l.ledger_id = $2)
      and ($3::uuid is null or c.workflow_id = $3)
)
select ledger_id, workflow_id, sum(consumed_micro)::bigint as consumed_micro,
       coalesce(sum(estimate_micro) filter (where saved_micro is not null), 0)::bigint as estimate_micro,
       coalesce(sum(saved_micro), 0)::bigint as saved_micro, count(*) as runs, null::bytea as state
from mine group by ledger_id, workflow_id
union all
select ledger_id, workflow_id, 0, 0, 0, 0, state from mine where accruing
