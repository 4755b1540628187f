-- Append whatever several callers want recorded in one ledger, in one transaction, each on its own merits.
--
-- A proposal is `events` events of one stream, recorded whole or not at all; `p_events` holds those of all proposals,
-- one proposal's behind the other's (their columns are in
-- schemas/sql/0064_sealed_event.sql). `expected` is the version that a lifecycle proposal was decided on, NULL for
-- telemetry. The caller sees to it that telemetry stands before lifecycle, that a stream has at most one lifecycle
-- proposal, and that no id or telemetry key occurs twice.
--
-- Returns NULL where there is no such ledger; else the ledger's position before, the time of what was appended behind
-- it without a gap, and one entry a proposal, NULL for each that was appended; no entries if all were:
--   duplicate  stored before: `ledger.stored` tells where, and whether it is the same
--   conflict   the stream is at another version        fenced   the epoch is not the latest attempt's
--   closed     the run takes no telemetry yet          erased   the stream was deleted
--   unknown    there is no such stream
--
-- At the lines `-- point:` tests stop their copy of it, to try what several appends at once can do to each other.
create or replace function ledger.append(
    p_ledger_id uuid, p_proposals ledger.proposal[], p_events ledger.proposed_event[],
    p_states projection.run_state[], p_inline text[], p_inline_rows jsonb[]
) returns ledger.outcome language plpgsql as $$
#variable_conflict use_column
declare
    v_before    bigint;
    v_next      bigint;
    v_hash      bytea;
    v_now       timestamptz;
    v_now_us    bytea;
    v_refusals  text[];   -- one a proposal; NULL as long as none is refused
    v_refused   boolean[];   -- one an event
    v_created   boolean;   -- said by lifecycle alone, as the next
    v_changed   boolean;
    v_telemetry boolean := (p_proposals[1]).expected is null;
    v_lifecycle boolean := (p_proposals[cardinality(p_proposals)]).expected is not null;
    v_position  bigint[];   -- one an event, NULL if refused
    v_chain     bytea[];
    v_written   integer;
begin
    -- point: called
    select h.position, h.position, h.chain, h.recorded_at into v_before, v_next, v_hash, v_now
    from ledger.head h where h.ledger_id = p_ledger_id for update;
    if not found then
        return null;
    end if;
    -- point: locked
    v_now := greatest(clock_timestamp(), v_now);
    v_now_us := int8send((extract(epoch from v_now) * 1000000)::bigint);

    -- `offset 0` has each looked up by its index: else a planner may make a hash over the whole ledger.
    if v_telemetry then
        select array_agg(
            case when h.gate = 2 then 'erased'
                 when exists (select from ledger.event e
                              where e.ledger_id = p_ledger_id and e.stream = p.stream and e.epoch = p.epoch
                                and e.source = p.source and e.seq = p.seq and e.part = 0 and e.seq is not null
                              offset 0)
                     then 'duplicate'
                 when h.stream is null then 'unknown'
                 when h.gate = 0 then 'closed'
                 when h.epoch <> p.epoch then 'fenced' end order by p.ordinality)
        into v_refusals
        from rows from (unnest(p_proposals)) with ordinality p
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
        where p.expected is null;
    end if;
    if v_lifecycle then
        select v_refusals || array_agg(
            case when exists (select from ledger.event e
                              where e.ledger_id = p_ledger_id and e.event_id = p.event_id and e.version is not null
                              offset 0)
                     then 'duplicate'
                 when coalesce(h.version, 0) <> p.expected then 'conflict'
                 when p.epoch < coalesce(h.epoch, 0) then 'fenced' end order by p.ordinality),
               bool_or(p.expected = 0), bool_or(p.expected > 0)
        into v_refusals, v_created, v_changed
        from rows from (unnest(p_proposals)) with ordinality p
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
        where p.expected is not null;
    end if;

    if array_remove(v_refusals, null) = '{}' then
        v_refusals := null;
    else
        select array_agg(v_refusals[p.ordinality] is not null order by p.ordinality) into v_refused
        from rows from (unnest(p_proposals)) with ordinality p, generate_series(1, p.events);
    end if;

    for i in 1 .. cardinality(p_events) loop
        continue when v_refused[i];
        v_next := v_next + 1;
        v_hash := sha256(v_hash || int8send(v_next) || v_now_us || (p_events[i]).body);
        v_position[i] := v_next;
        v_chain[i] := v_hash;
    end loop;

    -- point: judged
    if v_next = v_before then
        return (v_before, v_now, v_refusals)::ledger.outcome;
    end if;

    insert into ledger.event
    select p_ledger_id, v_position[e.ordinality], e.event_id, e.stream, e.version, e.type, e.schema_version, e.actor,
           e.cause, e.correlation_id, e.causation_id, e.epoch, e.source, e.seq, e.part, e.occurred_at, v_now,
           e.commitment, v_chain[e.ordinality]
    from rows from (unnest(p_events)) with ordinality e
    where v_position[e.ordinality] is not null;

    if v_telemetry then
        insert into ledger.telemetry
        select p_ledger_id, e.stream, v_position[e.ordinality], v_now, e.salt, e.request, e.ciphertext
        from rows from (unnest(p_events)) with ordinality e
        where v_position[e.ordinality] is not null and e.version is null;
    end if;

    if v_lifecycle then
        insert into ledger.payload
        select p_ledger_id, v_position[e.ordinality], e.stream, e.salt, e.request, e.ciphertext
        from rows from (unnest(p_events)) with ordinality e
        where v_position[e.ordinality] is not null and e.version is not null;

        if v_changed then
            update ledger.stream h
            set version = p.expected + p.events, epoch = p.epoch, gate = p.gate
            from rows from (unnest(p_proposals)) with ordinality p
            where h.ledger_id = p_ledger_id and h.stream = p.stream and p.expected > 0
              and v_refusals[p.ordinality] is null;
        end if;

        if v_created then
            insert into ledger.stream
            select p_ledger_id, p.stream, p.events, p.epoch, p.gate
            from rows from (unnest(p_proposals)) with ordinality p
            where p.expected = 0 and v_refusals[p.ordinality] is null;

            insert into ledger.data_key
            select p_ledger_id, p.stream, p.key
            from rows from (unnest(p_proposals)) with ordinality p
            where p.expected = 0 and v_refusals[p.ordinality] is null;
        end if;

        if cardinality(p_states) > 0 then
            v_written := projection.project_run_states(p_ledger_id, v_now, v_position, p_states);
        end if;

        for i in 1 .. cardinality(p_inline) loop
            case p_inline[i]   -- the frequent ones are written out, so that their plans are kept
                when 'projection.project_run' then
                    perform projection.project_run(p_ledger_id, v_now, v_position, p_inline_rows[i]);
                when 'projection.project_transition' then
                    perform projection.project_transition(p_ledger_id, v_now, v_position, p_inline_rows[i]);
                when 'projection.project_demand' then
                    perform projection.project_demand(p_ledger_id, v_now, v_position, p_inline_rows[i]);
                else
                    execute format('select %s($1, $2, $3, $4)', p_inline[i])
                    using p_ledger_id, v_now, v_position, p_inline_rows[i];
            end case;
        end loop;
    end if;

    -- point: written
    update ledger.head h set position = v_next, chain = v_hash, recorded_at = v_now where h.ledger_id = p_ledger_id;
    -- point: done
    return (v_before, v_now, v_refusals)::ledger.outcome;
end $$;

-- As the release before calls it: states of runs come as JSON, and each proposal gets a row of its own.
create or replace function ledger.append(
    p_ledger_id uuid, p_proposals ledger.proposal[], p_events ledger.proposed_event[],
    p_inline text[], p_inline_rows jsonb[]
) returns table (proposal integer, verdict text, at bigint, last bigint, recorded_at timestamptz,
                 salt bytea, request bytea, version integer, epoch integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_outcome ledger.outcome := ledger.append(p_ledger_id, p_proposals, p_events, '{}', p_inline, p_inline_rows);
begin
    return query
    select p.ordinality::integer, coalesce(p.refusal, 'appended'), coalesce(d.at, p.last - p.events + 1),
           coalesce(d.last, p.last), coalesce(d.recorded_at, case when p.refusal is null then v_outcome.recorded_at end),
           d.salt, d.request, coalesce(d.version, h.version), h.epoch
    from (select q.*, v_outcome.refusals[q.ordinality] as refusal,
                 case when v_outcome.refusals[q.ordinality] is null
                     then v_outcome.position + sum(q.events) filter (where v_outcome.refusals[q.ordinality] is null)
                          over (order by q.ordinality) end as last
          from rows from (unnest(p_proposals)) with ordinality q
          where v_outcome.position is not null) p
    left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
    left join lateral ledger.stored(p_ledger_id, p.stream, p.expected is not null, p.event_id, p.epoch, p.source, p.seq) d
        on p.refusal = 'duplicate';
end $$;

-- Before a table has statistics, a planner takes a ledger's id to narrow it down to a row or so, and may then scan a
-- whole ledger where it should look up one event. Tell it that the id narrows nothing, until it has counted for itself.
select pg_restore_attribute_stats(
    'schemaname', 'ledger', 'relname', t.name, 'attname', 'ledger_id', 'inherited', t.inherited,
    'null_frac', 0::real, 'avg_width', 16, 'n_distinct', 1::real)
from (values ('event', false), ('stream', false), ('payload', false), ('telemetry', true)) t(name, inherited);
