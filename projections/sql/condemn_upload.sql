-- Let nobody write to an upload any more, whose parts are then removed. $1 upload, $2 holder or NULL. Zero rows:
-- somebody else writes to it, or it is gone.
update operation.upload set removing = true
where upload_id = $1 and (holder = $2 or held_until < clock_timestamp())
returning upload_id
