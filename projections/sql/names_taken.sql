-- Whether a project has a run of this name, and one of this external id. $1 ledger, $2 name, $3 external id or NULL.
-- Always one row.
select exists (select from run where ledger_id = $1 and name = $2) as name,
       exists (select from run where ledger_id = $1 and external_id = $3) as external_id
