-- Note what came of an attempt. $1 delivery, $2 state, $3 status, $4 error, $5 seconds to the next attempt.
update operation.delivery set state = $2, attempts = attempts + 1, status = $3, error = $4,
    next_at = clock_timestamp() + make_interval(secs => $5),
    ended_at = case when $2 = 'pending' then null else clock_timestamp() end
where delivery_id = $1
