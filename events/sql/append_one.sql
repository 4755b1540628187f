-- Append one event by itself: what `ledger.append` does for groups, without sets, which cost Postgres a quarter of its
-- time here (docs/decisions/0030). Its stream is there already, and of projections only its run's state goes with it:
-- `p_state`, or NULL. Returns what `ledger.append` does.
create or replace function ledger.append_one(
    p_ledger_id uuid, p_proposal ledger.proposal, p_event ledger.proposed_event, p_state projection.run_state
) returns ledger.outcome language plpgsql as $$
#variable_conflict use_column
declare
    v_before  bigint;
    v_hash    bytea;
    v_now     timestamptz;
    v_refusal text;
begin
    -- point: called
    select h.position, h.chain, h.recorded_at into v_before, v_hash, v_now
    from ledger.head h where h.ledger_id = p_ledger_id for update;
    if not found then
        return null;
    end if;
    -- point: locked
    v_now := greatest(clock_timestamp(), v_now);

    if p_event.version is null then
        select case when h.gate = 2 then 'erased'
                    when exists (select from ledger.event e
                                 where e.ledger_id = p_ledger_id and e.stream = p_event.stream
                                   and e.epoch = p_event.epoch and e.source = p_event.source and e.seq = p_event.seq
                                   and e.part = 0 and e.seq is not null
                                 offset 0)
                        then 'duplicate'
                    when h.stream is null then 'unknown'
                    when h.gate = 0 then 'closed'
                    when h.epoch <> p_event.epoch then 'fenced' end
        into v_refusal
        from (select) one
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p_event.stream;
    else
        select case when exists (select from ledger.event e
                                 where e.ledger_id = p_ledger_id and e.event_id = p_event.event_id
                                   and e.version is not null
                                 offset 0)
                        then 'duplicate'
                    when coalesce(h.version, 0) <> p_proposal.expected then 'conflict'
                    when p_proposal.epoch < h.epoch then 'fenced' end
        into v_refusal
        from (select) one
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p_event.stream;
    end if;

    -- point: judged
    if v_refusal is not null then
        return (v_before, v_now, array[v_refusal])::ledger.outcome;
    end if;
    v_hash := sha256(
        v_hash || int8send(v_before + 1) || int8send((extract(epoch from v_now) * 1000000)::bigint) || p_event.body);

    insert into ledger.event
    values (p_ledger_id, v_before + 1, p_event.event_id, p_event.stream, p_event.version, p_event.type,
            p_event.schema_version, p_event.actor, p_event.cause, p_event.correlation_id, p_event.causation_id,
            p_event.epoch, p_event.source, p_event.seq, p_event.part, p_event.occurred_at, v_now, p_event.commitment,
            v_hash);

    if p_event.version is null then
        insert into ledger.telemetry
        values (p_ledger_id, p_event.stream, v_before + 1, v_now, p_event.salt, p_event.request, p_event.ciphertext);
    else
        insert into ledger.payload
        values (p_ledger_id, v_before + 1, p_event.stream, p_event.salt, p_event.request, p_event.ciphertext);

        update ledger.stream h
        set version = p_event.version, epoch = p_proposal.epoch, gate = p_proposal.gate
        where h.ledger_id = p_ledger_id and h.stream = p_event.stream;

        if p_state.run_id is not null then
            update run   -- as `projection.project_run_states` does
            set version = p_state.version, position = v_before + 1, state = p_state.state,
                progress_at = case when p_state.progressed then v_now else progress_at end
            where run.ledger_id = p_ledger_id and run.run_id = p_state.run_id;
        end if;
    end if;

    -- point: written
    update ledger.head h
    set position = v_before + 1, chain = v_hash, recorded_at = v_now
    where h.ledger_id = p_ledger_id;
    -- point: done
    return (v_before, v_now, null)::ledger.outcome;
end $$;
