-- Remove facets of runs. $1 ledger, $2 runs, $3 keys: one element each.
delete from run_facet f using unnest($2::uuid[], $3::text[]) as gone(run_id, key)
where f.ledger_id = $1 and f.run_id = gone.run_id and f.key = gone.key
