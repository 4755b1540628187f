-- What most events change of a run's row, as `ledger.append` takes it: `event` counts an append's events from 1, `state`
-- is MessagePack without the run's times, and `progressed` says that the time of its progress is the append's.
create type projection.run_state as (
    event integer, run_id uuid, version integer, progressed boolean, state bytea
);
