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
            when h.gate = 2 and p.expected is null then 'erased'
            when d.position is not null then 'duplicate'
            when p.expected is not null then
                case when coalesce(h.version, 0) <> p.expected then 'conflict'
                     when p.epoch < coalesce(h.epoch, 0) then 'fenced'
                     else 'appended' end
            when h.stream is null then 'unknown'
            when h.gate = 0 then 'closed'
            when h.epoch <> p.epoch then 'fenced'
            else 'appended'
        end order by p.i)
    into v_verdict
    from unnest(s_stream, s_expected, s_epoch, s_event_id, s_source, s_seq)
         with ordinality as p(stream, expected, epoch, event_id, source, seq, i)
    left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
    left join lateral (
        select e.position from ledger.event e
        where p.expected is not null
          and e.ledger_id = p_ledger_id and e.event_id = p.event_id and e.version is not null
        union all
        select e.position from ledger.event e
        where p.expected is null
          and e.ledger_id = p_ledger_id and e.stream = p.stream and e.epoch = p.epoch
          and e.source = p.source and e.seq = p.seq and e.part = 0 and e.seq is not null
    ) d on true;

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
            v_chain[i] := v_hash;
        end if;
    end loop;

    if v_next > v_head.position then
        insert into ledger.event
        select p_ledger_id, t.position, t.id, s_stream[t.proposal], t.version, t.type, t.schema_version, t.actor,
               t.cause, t.correlation, t.causation, t.epoch, t.source, t.seq, t.part, t.occurred_at, v_now,
               t.commitment, t.chain
        from unnest(v_position, e_proposal, e_id, e_version, e_type, e_schema_version, e_actor, e_cause,
                    e_correlation, e_causation, e_epoch, e_source, e_seq, e_part, e_occurred_at, e_commitment,
                    v_chain)
             as t(position, proposal, id, version, type, schema_version, actor, cause, correlation, causation,
                  epoch, source, seq, part, occurred_at, commitment, chain)
        where t.position is not null;

        if s_expected[1] is null then   -- telemetry stands first
            insert into ledger.telemetry
            select p_ledger_id, s_stream[t.proposal], t.position, v_now, t.salt, t.request, t.ciphertext
            from unnest(v_position, e_proposal, e_seq, e_salt, e_request, e_ciphertext)
                 as t(position, proposal, seq, salt, request, ciphertext)
            where t.position is not null and t.seq is not null;
        end if;

        if s_expected[cardinality(s_expected)] is not null then   -- lifecycle stands last
            insert into ledger.payload
            select p_ledger_id, t.position, s_stream[t.proposal], t.salt, t.request, t.ciphertext
            from unnest(v_position, e_proposal, e_seq, e_salt, e_request, e_ciphertext)
                 as t(position, proposal, seq, salt, request, ciphertext)
            where t.position is not null and t.seq is null;

            insert into ledger.stream as s
            select p_ledger_id, p.stream, max(e.version), max(p.epoch), max(p.gate)
            from unnest(s_stream, s_expected, s_epoch, s_gate)
                 with ordinality as p(stream, expected, epoch, gate, i)
            join unnest(e_proposal, e_version) as e(proposal, version) on e.proposal = p.i
            where p.expected is not null and v_verdict[p.i] = 'appended'
            group by p.stream
            on conflict (ledger_id, stream) do update
                set version = excluded.version, epoch = excluded.epoch, gate = excluded.gate;

            insert into ledger.data_key
            select p_ledger_id, p.stream, p.key
            from unnest(s_stream, s_key) with ordinality as p(stream, key, i)
            where p.key is not null and v_verdict[p.i] = 'appended';

            for i in 1 .. cardinality(p_inline) loop
                execute format('select %s($1, $2, $3, $4)', p_inline[i])
                using p_ledger_id, v_now, v_position, p_inline_rows[i];
            end loop;
        end if;

        update ledger.head h set position = v_next, chain = v_hash, recorded_at = v_now
        where h.ledger_id = p_ledger_id;
    end if;

    return query
    select p.i::integer, p.verdict, p.first, p.last, v_now, null::bytea, null::bytea, null::integer, null::integer
    from unnest(v_verdict, v_first, v_last) with ordinality as p(verdict, first, last, i)
    where p.verdict = 'appended';

    if 'appended' <> any (v_verdict) then
        return query
        select p.i::integer, p.verdict, d.at, d.last, d.recorded_at, d.salt, d.request,
               coalesce(d.version, h.version), h.epoch
        from unnest(v_verdict, s_stream, s_expected, s_epoch, s_event_id, s_source, s_seq)
             with ordinality as p(verdict, stream, expected, epoch, event_id, source, seq, i)
        left join ledger.stream h on h.ledger_id = p_ledger_id and h.stream = p.stream
        left join lateral ledger.stored(p_ledger_id, p.stream, p.expected is not null, p.event_id, p.epoch,
                                        p.source, p.seq) d on p.verdict = 'duplicate'
        where p.verdict <> 'appended';
    end if;
end $$;
