-- Remove a deleted run's rows that hold names of its user's or lead to its files. $1 ledger, $2 run.
with files as (
    delete from segment where ledger_id = $1 and run_id = $2 returning 1
), summaries as (
    delete from metric_summary where ledger_id = $1 and run_id = $2 returning 1
)
select (select count(*) from files) + (select count(*) from summaries) as objects
