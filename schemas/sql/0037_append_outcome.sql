-- What `ledger.append` returns: the position and time before and of what it appended, and why the others were refused.
create type ledger.outcome as (position bigint, recorded_at timestamptz, refusals text[]);

-- It returned nine columns a proposal; no release called it with states of runs.
drop function if exists ledger.append(
    uuid, ledger.proposal[], ledger.proposed_event[], projection.run_state[], text[], jsonb[]);
