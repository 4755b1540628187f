-- Tell whether a holder still has an import. $1 import, $2 holder. Zero rows: it was not renewed in time, or is another's.
select import_id from operation.import_job
where import_id = $1 and holder = $2 and state = 'running' and held_until > clock_timestamp()
