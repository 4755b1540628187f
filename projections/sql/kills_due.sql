-- Runs that are to be killed, with how long that has been so; and ended runs that must not go on, whose worker may still
-- hold them (no time: only the order matters).
select r.*, extract(epoch from clock_timestamp() - kill_requested_at)::float8 as waited_seconds
from run r
where status in ('starting', 'running', 'stopping', 'idle') and kill_requested
union all
select r.*, null
from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
where d.ended and d.to_stop
