-- Let an import begin once all of its archive is durable. $1 import.
update operation.import_job i set state = 'waiting', changed_at = clock_timestamp()
from operation.upload u
where i.import_id = $1 and i.state = 'uploading' and u.upload_id = $1 and u.received = u.bytes and not u.removing
