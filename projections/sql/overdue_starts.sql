-- Runs that have been starting for longer than $1 seconds and are not being killed.
select * from run
where status = 'starting' and not kill_requested and status_since < clock_timestamp() - make_interval(secs => $1)
