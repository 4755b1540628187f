-- Append whatever several callers want recorded in one ledger, in one transaction, each on its own merits.
--
-- A proposal is `events` events of one stream, recorded whole or not at all; `p_events` holds those of all proposals,
-- one proposal's behind the other's. `expected` is the version that a lifecycle proposal was decided on, NULL for
-- telemetry. The caller sees to it that telemetry stands before lifecycle, that a stream has at most one lifecycle
-- proposal, and that no id or telemetry key occurs twice.
--
-- Returns one row a proposal:
--   appended   `at` is the first event's position, `last` the last one's
--   duplicate  stored before: `at`, `last`, salt and request digest of the first event tell whether it is the same
--   conflict   the stream is at another version        fenced   the epoch is not the latest attempt's
--   closed     the run takes no telemetry yet          erased   the stream was deleted
--   unknown    there is no such stream (zero rows: there is no such ledger)
--
-- At the lines `-- point:` tests stop their copy of it, to try what several appends at once can do to each other.
do $$ begin   -- once; another column takes a migration
    create type ledger.proposal as (
        stream uuid, expected integer, epoch integer, gate smallint, key bytea, event_id uuid, source text, seq bigint,
        events integer
    );
    create type ledger.proposed_event as (
        event_id uuid, stream uuid, version integer, type text, schema_version smallint, actor text, cause text,
        correlation_id uuid, causation_id uuid, epoch integer, source text, seq bigint, part smallint,
        occurred_at timestamptz, commitment bytea, body bytea, salt bytea, request bytea, ciphertext bytea
    );
exception when duplicate_object then null;
end $$;

create or replace function ledger.append(
    p_ledger_id uuid, p_proposals ledger.proposal[], p_events ledger.proposed_event[],
    p_states projection.run_state[], p_inline text[], p_inline_rows jsonb[]
) returns table (proposal integer, verdict text, at bigint, last bigint, recorded_at timestamptz,
                 salt bytea, request bytea, version integer, epoch integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_head      ledger.head;
    v_one       ledger.proposal;
    v_verdicts  text[];
    v_written   integer;
    v_next      bigint;
    v_hash      bytea;
    v_now       timestamptz;
    v_now_us    bytea;
    v_event     integer := 0;   -- the last one looked at
    v_position  bigint[] := array_fill(null::bigint, array[cardinality(p_events)]);
    v_chain     bytea[];
    v_version   integer[];
    v_telemetry boolean := false;
    v_created   boolean := false;
    v_changed   boolean := false;
    v_new_keys  boolean := false;
begin
    -- point: called
    select * into v_head from ledger.head h where h.ledger_id = p_ledger_id for update;
    if not found then
        return;
    end if;
    -- point: locked
    v_next := v_head.position;
    v_hash := v_head.chain;
    v_now := greatest(clock_timestamp(), v_head.recorded_at);
    v_now_us := int8send((extract(epoch from v_now) * 1000000)::bigint);

    -- `offset 0` has each looked up by its index: else a planner may make a hash over the whole ledger.
    if (p_proposals[1]).expected is null then
        select array_agg(
            case when h.gate = 2 then 'erased'
                 when exists (select from ledger.event e
                              where e.ledger_id = p_ledger_id and e.stream = p.stream and e.epoch = p.epoch
                                and e.source = p.source and e.seq = p.seq and e.part = 0 and e.seq is not null
                              offset 0)
                     then 'duplicate'
                 when h.stream is null then 'unknown'
                 when h.gate = 0 then 'closed'
                 when h.epoch <> p.epoch then 'fenced'
                 else 'appended' end order by p.ordinality)
        into v_verdicts
        from rows from (unnest(p_proposals)) with ordinality p
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
        where p.expected is null;
    end if;
    if (p_proposals[cardinality(p_proposals)]).expected is not null then
        select v_verdicts || array_agg(
            case when exists (select from ledger.event e
                              where e.ledger_id = p_ledger_id and e.event_id = p.event_id and e.version is not null
                              offset 0)
                     then 'duplicate'
                 when coalesce(h.version, 0) <> p.expected then 'conflict'
                 when p.epoch < coalesce(h.epoch, 0) then 'fenced'
                 else 'appended' end order by p.ordinality)
        into v_verdicts
        from rows from (unnest(p_proposals)) with ordinality p
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
        where p.expected is not null;
    end if;

    for i in 1 .. cardinality(p_proposals) loop
        v_one := p_proposals[i];
        if v_verdicts[i] = 'appended' then
            proposal := i;
            verdict := 'appended';
            at := v_next + 1;
            last := v_next + v_one.events;
            recorded_at := v_now;
            return next;
            for k in 1 .. v_one.events loop
                v_event := v_event + 1;
                v_next := v_next + 1;
                v_hash := sha256(v_hash || int8send(v_next) || v_now_us || (p_events[v_event]).body);
                v_position[v_event] := v_next;
                v_chain[v_event] := v_hash;
            end loop;
            if v_one.expected is null then
                v_telemetry := true;
            else
                v_version[i] := v_one.expected + v_one.events;
                v_created := v_created or v_one.expected = 0;
                v_changed := v_changed or v_one.expected > 0;
                v_new_keys := v_new_keys or v_one.key is not null;
            end if;
        else
            v_event := v_event + v_one.events;
            return query
            select i, v_verdicts[i], d.at, d.last, d.recorded_at, d.salt, d.request, coalesce(d.version, h.version),
                   h.epoch
            from (select) one
            left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = v_one.stream
            left join lateral ledger.stored(p_ledger_id, v_one.stream, v_one.expected is not null, v_one.event_id,
                                            v_one.epoch, v_one.source, v_one.seq) d on v_verdicts[i] = 'duplicate';
        end if;
    end loop;

    -- point: judged
    if v_next = v_head.position then
        return;
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

    if v_version is not null then
        insert into ledger.payload
        select p_ledger_id, v_position[e.ordinality], e.stream, e.salt, e.request, e.ciphertext
        from rows from (unnest(p_events)) with ordinality e
        where v_position[e.ordinality] is not null and e.version is not null;

        if v_changed then
            update ledger.stream h
            set version = v_version[p.ordinality], epoch = p.epoch, gate = p.gate
            from rows from (unnest(p_proposals)) with ordinality p
            where h.ledger_id = p_ledger_id and h.stream = p.stream and p.expected > 0
              and v_version[p.ordinality] is not null;
        end if;

        if v_created then
            insert into ledger.stream
            select p_ledger_id, p.stream, v_version[p.ordinality], p.epoch, p.gate
            from rows from (unnest(p_proposals)) with ordinality p
            where p.expected = 0 and v_version[p.ordinality] is not null;
        end if;

        if v_new_keys then
            insert into ledger.data_key
            select p_ledger_id, p.stream, p.key
            from rows from (unnest(p_proposals)) with ordinality p
            where v_version[p.ordinality] is not null and p.key is not null;
        end if;

        if cardinality(p_states) > 0 then
            v_written := projection.project_run_states(p_ledger_id, v_now, v_position, p_states);
        end if;

        for i in 1 .. cardinality(p_inline) loop
            if p_inline[i] = 'projection.project_run' then   -- a frequent one; written out, its plan is kept
                perform projection.project_run(p_ledger_id, v_now, v_position, p_inline_rows[i]);
            else
                execute format('select %s($1, $2, $3, $4)', p_inline[i])
                using p_ledger_id, v_now, v_position, p_inline_rows[i];
            end if;
        end loop;
    end if;

    -- point: written
    update ledger.head h set position = v_next, chain = v_hash, recorded_at = v_now where h.ledger_id = p_ledger_id;
    -- point: done
end $$;

-- As the release before calls it, whose states of runs all come as JSON.
create or replace function ledger.append(
    p_ledger_id uuid, p_proposals ledger.proposal[], p_events ledger.proposed_event[],
    p_inline text[], p_inline_rows jsonb[]
) returns table (proposal integer, verdict text, at bigint, last bigint, recorded_at timestamptz,
                 salt bytea, request bytea, version integer, epoch integer)
language sql as $$
    select * from ledger.append(p_ledger_id, p_proposals, p_events, '{}', p_inline, p_inline_rows);
$$;

-- Before a table has statistics, a planner takes a ledger's id to narrow it down to a row or so, and may then scan a
-- whole ledger where it should look up one event. Tell it that the id narrows nothing, until it has counted for itself.
select pg_restore_attribute_stats(
    'schemaname', 'ledger', 'relname', t.name, 'attname', 'ledger_id', 'inherited', t.inherited,
    'null_frac', 0::real, 'avg_width', 16, 'n_distinct', 1::real)
from (values ('event', false), ('stream', false), ('payload', false), ('telemetry', true)) t(name, inherited);
