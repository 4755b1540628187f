-- The next deleted runs that are not yet purged, oldest first: $3 of them, behind $1 time of deletion and $2 run.
select * from run
where status = 'deleted' and not purged and (deleted_at, run_id) > ($1, $2)
order by deleted_at, run_id limit $3
