-- Note that a reader failed on an event. $1 reader, $2 ledger, $3 position, $4 event, $5 type, $6 error. Returns the
-- letter's state; one that was discarded stays so.
insert into operation.dead_letter as d (reader, ledger_id, position, event_id, type, state, error, failures)
values ($1, $2, $3, $4, $5, 'held', $6, 1)
on conflict (ledger_id, reader, position) do update
    set state = case when d.state = 'discarded' then d.state else 'held' end,
        error = excluded.error, failures = d.failures + 1, last_at = clock_timestamp()
returning state
