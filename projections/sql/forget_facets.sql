-- Forget the facets of deleted runs. $1 ledger, $2 runs.
delete from run_facet where ledger_id = $1 and run_id = any($2)
