-- The runs that reproduce a run, newest first. $1 ledger, $2 the original, $3 created until when, $4 limit. Deleted ones
-- are no longer known to reproduce anything.
select run_id from run
where ledger_id = $1 and reproduced_from = $2 and created_at <= $3
order by created_at desc, run_id desc limit $4
