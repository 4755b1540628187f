-- Append whatever several callers want recorded in one ledger, in one transaction, each on its own merits.
--
-- Proposals (s_*, one element each) are atomic groups of events (e_*, one element each, `e_proposal` the proposal's
-- index from 1) of one stream. `s_expected` is the version that a lifecycle proposal was decided on, NULL for
-- telemetry. The caller sees to it that telemetry stands before lifecycle, that a stream has at most one lifecycle
-- proposal, and that no id or telemetry key occurs twice.
--
-- Returns one row a proposal:
--   appended   `at` is the first event's position, `last` the last one's
--   duplicate  stored before: `at`, `last`, salt and request digest of the first event tell whether it is the same
--   conflict   the stream is at another version        fenced   the epoch is not the latest attempt's
--   closed     the run takes no telemetry yet          erased   the stream was deleted
--   unknown    there is no such stream (zero rows: there is no such ledger)
create or replace function ledger.append(
    p_ledger_id uuid,
    s_stream uuid[], s_expected integer[], s_epoch integer[], s_gate smallint[], s_key bytea[],
    s_event_id uuid[], s_source text[], s_seq bigint[],
    e_proposal integer[], e_id uuid[], e_version integer[], e_type text[], e_schema_version smallint[],
    e_actor text[], e_cause text[], e_correlation uuid[], e_causation uuid[], e_epoch integer[],
    e_source text[], e_seq bigint[], e_part smallint[], e_occurred_at timestamptz[],
    e_commitment bytea[], e_body bytea[], e_salt bytea[], e_request bytea[], e_ciphertext bytea[],
    p_inline text[], p_inline_rows jsonb[]
) returns table (proposal integer, verdict text, at bigint, last bigint, recorded_at timestamptz,
                 salt bytea, request bytea, version integer, epoch integer)
language plpgsql as $$
#variable_conflict use_column
declare
    v_head      ledger.head;
    v_verdict   text[];
    v_position  bigint[] := array_fill(null::bigint, array[cardinality(e_id)]);
    v_chain     bytea[] := array_fill(null::bytea, array[cardinality(e_id)]);
    v_first     bigint[] := array_fill(null::bigint, array[cardinality(s_stream)]);
    v_last      bigint[] := array_fill(null::bigint, array[cardinality(s_stream)]);
    v_version   integer[] := array_fill(null::integer, array[cardinality(s_stream)]);
    v_keys      boolean := false;
    v_next      bigint;
    v_hash      bytea;
    v_now       timestamptz;
    v_now_us    bytea;
begin
    select * into v_head from ledger.head h where h.ledger_id = p_ledger_id for update;
    if not found then
        return;
    end if;

    select array_agg(
        case
            when s_expected[i] is null then
                case when h.gate = 2 then 'erased'
                     when (select e.position from ledger.event e
                           where e.ledger_id = p_ledger_id and e.stream = s_stream[i] and e.epoch = s_epoch[i]
                             and e.source = s_source[i] and e.seq = s_seq[i] and e.part = 0 and e.seq is not null
                          ) is not null then 'duplicate'
                     when h.stream is null then 'unknown'
                     when h.gate = 0 then 'closed'
                     when h.epoch <> s_epoch[i] then 'fenced'
                     else 'appended' end
            else
                case when (select e.position from ledger.event e
                           where e.ledger_id = p_ledger_id and e.event_id = s_event_id[i] and e.version is not null
                          ) is not null then 'duplicate'
                     when coalesce(h.version, 0) <> s_expected[i] then 'conflict'
                     when s_epoch[i] < coalesce(h.epoch, 0) then 'fenced'
                     else 'appended' end
        end order by i)
    into v_verdict
    from generate_subscripts(s_stream, 1) i
    left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = s_stream[i];

    v_next := v_head.position;
    v_hash := v_head.chain;
    v_now := greatest(clock_timestamp(), v_head.recorded_at);
    v_now_us := int8send((extract(epoch from v_now) * 1000000)::bigint);
    for i in 1 .. cardinality(e_id) loop
        if v_verdict[e_proposal[i]] = 'appended' then
            v_next := v_next + 1;
            v_hash := sha256(v_hash || int8send(v_next) || v_now_us || e_body[i]);
            v_position[i] := v_next;
            v_first[e_proposal[i]] := coalesce(v_first[e_proposal[i]], v_next);
            v_last[e_proposal[i]] := v_next;
            v_version[e_proposal[i]] := e_version[i];
            v_keys := v_keys or s_key[e_proposal[i]] is not null;
            v_chain[i] := v_hash;
        end if;
    end loop;

    if v_next > v_head.position then
        insert into ledger.event
        select p_ledger_id, v_position[i], e_id[i], s_stream[e_proposal[i]], e_version[i], e_type[i],
               e_schema_version[i], e_actor[i], e_cause[i], e_correlation[i], e_causation[i], e_epoch[i], e_source[i],
               e_seq[i], e_part[i], e_occurred_at[i], v_now, e_commitment[i], v_chain[i]
        from generate_subscripts(e_id, 1) i
        where v_position[i] is not null;

        if s_expected[1] is null then   -- telemetry stands first
            insert into ledger.telemetry
            select p_ledger_id, s_stream[e_proposal[i]], v_position[i], v_now, e_salt[i], e_request[i], e_ciphertext[i]
            from generate_subscripts(e_id, 1) i
            where v_position[i] is not null and e_seq[i] is not null;
        end if;

        if s_expected[cardinality(s_expected)] is not null then   -- lifecycle stands last
            insert into ledger.payload
            select p_ledger_id, v_position[i], s_stream[e_proposal[i]], e_salt[i], e_request[i], e_ciphertext[i]
            from generate_subscripts(e_id, 1) i
            where v_position[i] is not null and e_version[i] is not null;

            insert into ledger.stream as s
            select p_ledger_id, s_stream[i], v_version[i], s_epoch[i], s_gate[i]
            from generate_subscripts(s_stream, 1) i
            where v_version[i] is not null
            on conflict (ledger_id, stream) do update
                set version = excluded.version, epoch = excluded.epoch, gate = excluded.gate;

            if v_keys then
                insert into ledger.data_key
                select p_ledger_id, s_stream[i], s_key[i]
                from generate_subscripts(s_stream, 1) i
                where s_key[i] is not null and v_verdict[i] = 'appended';
            end if;

            for i in 1 .. cardinality(p_inline) loop
                execute format('select %s($1, $2, $3, $4)', p_inline[i])
                using p_ledger_id, v_now, v_position, p_inline_rows[i];
            end loop;
        end if;

        update ledger.head h set position = v_next, chain = v_hash, recorded_at = v_now
        where h.ledger_id = p_ledger_id;
    end if;

    return query
    select i, v_verdict[i], v_first[i], v_last[i], v_now, null::bytea, null::bytea, null::integer, null::integer
    from generate_subscripts(v_verdict, 1) i
    where v_verdict[i] = 'appended';

    if 'appended' <> any (v_verdict) then
        return query
        select i, v_verdict[i], d.at, d.last, d.recorded_at, d.salt, d.request, coalesce(d.version, h.version), h.epoch
        from generate_subscripts(v_verdict, 1) i
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = s_stream[i]
        left join lateral ledger.stored(p_ledger_id, s_stream[i], s_expected[i] is not null, s_event_id[i], s_epoch[i],
                                        s_source[i], s_seq[i]) d on v_verdict[i] = 'duplicate'
        where v_verdict[i] <> 'appended';
    end if;
end $$;
