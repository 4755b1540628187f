-- Forget the uploads of a deleted run that nobody writes to, and count those that somebody may. $1 ledger, $2 run.
with gone as (
    delete from operation.upload where ledger_id = $1 and run_id = $2 and held_until < clock_timestamp() returning 1
)
select (select count(*) from operation.upload where ledger_id = $1 and run_id = $2) - (select count(*) from gone)
