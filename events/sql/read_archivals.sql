-- What says that a stream's telemetry was archived, sealed. $1 ledger, $2 stream.
select e.position, e.event_id, p.ciphertext
from ledger.event e
join ledger.payload p on p.ledger_id = e.ledger_id and p.position = e.position
where e.ledger_id = $1 and e.stream = $2 and e.version is not null and e.type = 'run.telemetry_archived'
order by e.version
