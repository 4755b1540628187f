-- A sweep's trials in order, each with the best that it logged of the metric; of one that was tried again, the latest run.
-- $1 ledger, $2 sweep, $3 metric or NULL, $4 min or max, $5 the last number seen, $6 limit.
select r.*, case $4 when 'min' then m.min else m.max end as value,
       case $4 when 'min' then m.min_step else m.max_step end as step
from (select distinct on (trial) * from run
      where ledger_id = $1 and sweep_id = $2 and trial > $5 order by trial, created_at desc limit $6) r
left join metric_summary m on m.ledger_id = r.ledger_id and m.run_id = r.run_id and m.name = $3
order by r.trial
