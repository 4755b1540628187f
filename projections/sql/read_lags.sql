-- How many events each reader of the ledgers, cursor or projection, has not passed yet.
select r.reader, sum(h.position - r.position)::bigint as events
from (
    select reader, ledger_id, position from ledger.cursor
    union all
    select 'projector.' || projection, ledger_id, position from checkpoint
) r
join ledger.head h using (ledger_id)
group by r.reader
