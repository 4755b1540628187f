-- Where a ledger stood at a time: the position of the last event that was recorded up to then (0: none), its head, and
-- the ledger's own clock. Times never go back along positions, so half of what is left falls away at each look.
-- $1 ledger, $2 time. Zero rows: no such ledger.
with recursive search(low, high) as (
    select 0::bigint, position from ledger.head where ledger_id = $1
    union all
    select case when e.recorded_at <= $2 then e.position else s.low end,
           case when e.recorded_at <= $2 then s.high else e.position - 1 end
    from search s
    join ledger.event e on e.ledger_id = $1 and e.position = (s.low + s.high + 1) / 2
    where s.low < s.high
)
select s.low as position, h.position as head, greatest(clock_timestamp(), h.recorded_at) as now
from search s join ledger.head h on h.ledger_id = $1
where s.low = s.high
