-- Runs that cost something now and are not asked to end yet, of some organisations. $1 organisations. Zero rows: none.
select r.* from ledger.ledger l
join run_credit c on c.ledger_id = l.ledger_id and c.accruing
join run r on r.ledger_id = c.ledger_id and r.run_id = c.run_id
where l.organisation_id = any($1) and not r.kill_requested
  and r.status in ('starting', 'running', 'stopping', 'idle')
