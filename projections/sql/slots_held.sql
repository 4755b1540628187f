-- Runs that hold slots, or may still hold them, with their worker and organisation.
select d.run_id, d.ledger_id, d.organisation_id, d.held, r.worker_id
from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
where d.held <> '{}'
