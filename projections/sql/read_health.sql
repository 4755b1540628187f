-- What copies of roles last said of themselves, and how many seconds ago.
select role, instance, leads, failures, restarts, last_error, stepped_at,
       extract(epoch from clock_timestamp() - said_at)::float8 as silence_seconds
from operation.role
order by role, said_at desc
