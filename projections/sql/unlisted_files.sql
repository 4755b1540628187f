-- Which of these files are not in the manifest, and were not merged away in the last $5 seconds. $1 ledgers, $2 runs,
-- $3 segments, $4 paths: one element a file.
select f.path
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[]) as f(ledger_id, run_id, segment_id, path)
where not exists (
    select 1 from segment s
    where s.ledger_id = f.ledger_id and s.run_id = f.run_id and s.segment_id = f.segment_id
) and not exists (
    select 1 from replaced_segment r
    where r.ledger_id = f.ledger_id and r.run_id = f.run_id and r.segment_id = f.segment_id
      and r.replaced_at >= now() - make_interval(secs => $5)
)
