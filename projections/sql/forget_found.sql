-- Forget what the stores gave up of runs whose receipt is an event by now.
delete from purge p using run r where r.ledger_id = p.ledger_id and r.run_id = p.run_id and r.purged
