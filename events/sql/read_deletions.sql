-- Those of some streams that a deletion covers. $1 ledger, $2 streams.
select distinct stream from ledger.event
where ledger_id = $1 and stream = any($2) and version is not null and type = 'run.deleted'
