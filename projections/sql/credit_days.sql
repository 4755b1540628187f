-- What the runs of an organisation (or of one of its ledgers) cost up to their last transitions, by day (state NULL),
-- and the states of the runs that accrue. $1 organisation, $2 ledger or NULL, $3 first day, $4 last day.
with mine as (
    select l.ledger_id from ledger.ledger l
    where l.organisation_id = $1 and ($2::uuid is null or l.ledger_id = $2)
)
select d.day, sum(d.consumed_micro)::bigint as consumed_micro, null::bytea as state
from mine join credit_day d on d.ledger_id = mine.ledger_id
where d.day between $3 and $4
group by d.day
union all
select null, 0, c.state from mine join run_credit c on c.ledger_id = mine.ledger_id where c.accruing
