-- Runs whose last attempt ended without its worker's word, and that may still hold that worker's slots.
select r.*
from demand d join run r on r.ledger_id = d.ledger_id and r.run_id = d.run_id
where d.ended
