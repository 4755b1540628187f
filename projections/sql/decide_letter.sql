-- Decide about a letter that waits. $1 reader, $2 ledger, $3 position, $4 decision (retry, discarded), $5 actor.
-- Zero rows: none waits there.
update operation.dead_letter set state = $4, decided_by = $5, decided_at = clock_timestamp()
where reader = $1 and ledger_id = $2 and position = $3 and state in ('held', 'retry')
returning *
