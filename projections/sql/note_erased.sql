-- Erase a deleted run's payloads and rows, and add to what Postgres gave up of it. $1 ledger, $2 run.
with erased as (
    select objects, bytes from ledger.erase($1, $2)
), files as (
    delete from segment where ledger_id = $1 and run_id = $2 returning 1
), replaced as (
    delete from replaced_segment where ledger_id = $1 and run_id = $2 returning 1
), facets as (
    delete from run_facet where ledger_id = $1 and run_id = $2 returning 1
), artifacts as (
    delete from artifact where ledger_id = $1 and run_id = $2 returning 1
), summaries as (
    delete from metric_summary where ledger_id = $1 and run_id = $2 returning 1
)
insert into purge as p
select $1, $2, 'postgres', e.objects + (select count(*) from files) + (select count(*) from replaced)
       + (select count(*) from facets)
       + (select count(*) from artifacts) + (select count(*) from summaries), e.bytes
from erased e
on conflict (ledger_id, run_id, store) do update
    set objects = p.objects + excluded.objects, bytes = p.bytes + excluded.bytes
