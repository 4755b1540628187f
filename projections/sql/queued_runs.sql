-- Managed runs that wait for a worker, oldest first. Bounded: the rest waits behind these anyway.
select * from run where status = 'queued' and mode = 'managed' order by created_at, run_id limit 1000
