-- Forget an upload that was saved, or whose parts were removed. $1 upload.
delete from operation.upload where upload_id = $1
