-- Runs that are to be followed by another one, the first to end first; one that crashed after another grace period, since
-- it may still come back. $1 limit.
select r.*
from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
where d.retry_due
order by r.ended_at limit $1
