-- Deleted runs that are not yet purged, oldest first. Bounded: the rest comes next time.
select * from run where status = 'deleted' and not purged order by deleted_at limit 100
