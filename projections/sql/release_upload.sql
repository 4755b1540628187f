-- Let others write to an upload. $1 upload, $2 holder.
update operation.upload set holder = null, held_until = '-infinity' where upload_id = $1 and holder = $2
