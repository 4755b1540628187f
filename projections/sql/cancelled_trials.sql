-- Runs that have not ended though their sweep was cancelled, and that nobody has asked to end. $1 limit.
select r.*
from run r join sweep s on s.ledger_id = r.ledger_id and s.sweep_id = r.sweep_id
where r.sweep_id is not null and r.status in ('queued', 'starting', 'running', 'stopping', 'idle')
  and s.status = 'cancelled' and not r.kill_requested
order by r.created_at limit $1
