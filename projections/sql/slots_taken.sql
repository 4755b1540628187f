-- Managed runs that hold slots, or may still hold them, with their organisation.
select r.*, l.organisation_id
from run r join ledger.ledger l on l.ledger_id = r.ledger_id
where r.mode = 'managed'
  and (r.status in ('starting', 'running', 'stopping', 'idle')
       or r.status = 'crashed' and r.worker_id is not null)
