-- Sweeps that make trials, with how many were made and how many have not ended: a run that is to be tried again counts
-- as open. $1 the last sweep seen, $2 limit.
select s.*,
       coalesce((select max(r.trial) from run r where r.ledger_id = s.ledger_id and r.sweep_id = s.sweep_id), 0) as made,
       (select count(distinct o.trial) from (
            select r.trial from run r
            where r.ledger_id = s.ledger_id and r.sweep_id = s.sweep_id
              and r.status in ('queued', 'starting', 'running', 'stopping', 'idle')
            union all
            select r.trial from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
            where d.retry_due and r.ledger_id = s.ledger_id and r.sweep_id = s.sweep_id) o) as open
from sweep s
where s.status = 'running' and s.sweep_id > $1
order by s.sweep_id limit $2
