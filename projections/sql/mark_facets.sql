-- Say of all facets of runs whether their run is archived. $1 ledger, $2 runs, $3 whether, one element each.
update run_facet f set archived = said.archived
from unnest($2::uuid[], $3::boolean[]) as said(run_id, archived)
where f.ledger_id = $1 and f.run_id = said.run_id
