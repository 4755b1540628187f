-- What a run has left that its deletion takes: files (also older ones of a name), their bytes, points. $1 ledger, $2 run.
select
    (select count(*) from artifact where ledger_id = $1 and run_id = $2) as artifacts,
    (select coalesce(sum(bytes), 0)::bigint from artifact where ledger_id = $1 and run_id = $2) as artifact_bytes,
    (select coalesce(sum(count), 0)::bigint from metric_summary where ledger_id = $1 and run_id = $2) as points
