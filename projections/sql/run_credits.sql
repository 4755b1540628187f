-- What runs cost up to their last transitions, as the states to go on from. $1 runs.
select run_id, state from run_credit where run_id = any($1)
