-- With which modes runs of a project have a primary metric of this name. $1 ledger, $2 name.
select exists (select from run_facet where ledger_id = $1 and key = 'primary_max' and text = $2) as max,
       exists (select from run_facet where ledger_id = $1 and key = 'primary_min' and text = $2) as min
