-- The facets of some runs. $1 ledger, $2 runs.
select run_id, key, number, text from run_facet where ledger_id = $1 and run_id = any($2) order by run_id, key, ordinal
