-- Runs that are to be killed, with how long that has been so; ended runs that must not go on, whose worker may still hold
-- them; and deleted ones, which do not say any more whose they were, that a worker holds (for both no time: only the order
-- matters). $1 the runs that workers say they hold.
select r.*, extract(epoch from clock_timestamp() - kill_requested_at)::float8 as waited_seconds
from run r
where status in ('starting', 'running', 'stopping', 'idle') and kill_requested
union all
select r.*, null
from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
where d.ended and d.to_stop
union all
select r.*, null
from run r
where run_id = any($1) and status = 'deleted'
