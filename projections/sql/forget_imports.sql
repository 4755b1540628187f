-- Forget imports that ended $1 seconds ago, and those whose upload was given up; returns their ids.
delete from operation.import_job i
where (state in ('finished', 'failed') and changed_at < clock_timestamp() - make_interval(secs => $1))
   or (state = 'uploading' and not exists (select from operation.upload u where u.upload_id = i.import_id))
returning import_id
