-- Put a reader back before the first event after a position that a stream lost and would still keep. $1 reader,
-- $2 ledger, $3 position, $4 whether the stream is the one of telemetry, $5 how long it keeps messages (interval).
-- Returns the new position; zero rows: nothing is to be published again.
update ledger.cursor c set position = f.position - 1, moved_at = clock_timestamp()
from (
    select e.position from ledger.event e
    where e.ledger_id = $2 and e.position > $3 and (e.seq is not null) = $4
      and e.recorded_at > clock_timestamp() - $5::interval
    order by e.position limit 1
) f
where c.reader = $1 and c.ledger_id = $2 and c.position >= f.position
returning c.position
