-- How many trials of sweeps stand where; of a trial that was tried again, its latest run counts. $1 ledger, $2 sweeps.
select t.sweep_id, t.status, count(*) as trials
from (select distinct on (sweep_id, trial) sweep_id, status from run
      where ledger_id = $1 and sweep_id = any($2) order by sweep_id, trial, created_at desc) t
group by t.sweep_id, t.status
