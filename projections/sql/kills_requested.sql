-- Active runs that are to be killed, with how long that has been so.
select r.*, extract(epoch from clock_timestamp() - kill_requested_at)::float8 as waited_seconds
from run r
where status in ('starting', 'running', 'stopping', 'idle') and kill_requested
