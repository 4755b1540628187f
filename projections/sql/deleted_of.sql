-- Which of some runs were deleted. $1 runs.
select run_id from run where run_id = any($1) and status = 'deleted'
