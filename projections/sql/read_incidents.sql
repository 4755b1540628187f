-- The latest $1 incidents, newest first.
select kind, silent, watched, opened_at, closed_at, outcome from operation.incident order by incident_id desc limit $1
