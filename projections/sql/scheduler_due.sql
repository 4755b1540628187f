-- What there is for the scheduler to look at. $1 seconds within which a worker starts a run, $2 the runs that workers say
-- they hold.
select exists (select from demand where waiting) as waiting,
       exists (select from demand where ended) as ended,
       exists (select from demand where retry_due) as retry_due,
       exists (select from demand where ended and to_stop)
       or exists (select from run where status in ('starting', 'running', 'stopping', 'idle') and kill_requested)
       or exists (select from run where run_id = any($2) and status = 'deleted') as kills,
       exists (select from run where status = 'starting' and not kill_requested
               and status_since < clock_timestamp() - make_interval(secs => $1)) as overdue
