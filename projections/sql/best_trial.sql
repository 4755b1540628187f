-- The trial with the best value of the metric among those that run or completed; of equal ones the first.
-- $1 ledger, $2 sweep, $3 metric, $4 min or max. Zero rows: none has logged it.
select r.*, case $4 when 'min' then m.min else m.max end as value,
       case $4 when 'min' then m.min_step else m.max_step end as step
from run r join metric_summary m on m.ledger_id = r.ledger_id and m.run_id = r.run_id and m.name = $3
where r.ledger_id = $1 and r.sweep_id = $2 and r.status in ('running', 'stopping', 'idle', 'completed')
  and case $4 when 'min' then m.min else m.max end is not null
order by case $4 when 'min' then m.min else -m.max end, r.trial, r.created_at limit 1
