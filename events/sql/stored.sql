-- The stored events of one earlier request: by its first event's id (lifecycle), or by its telemetry key.
-- `salt` is NULL once the payload was erased or archived, `request` once it was erased. Zero rows: never stored.
create or replace function ledger.stored(
    p_ledger_id uuid, p_stream uuid, p_lifecycle boolean, p_event_id uuid,
    p_epoch integer, p_source text, p_seq bigint
) returns table (at bigint, last bigint, version integer, recorded_at timestamptz, salt bytea, request bytea)
language plpgsql stable as $$
#variable_conflict use_column
begin
    if p_lifecycle then
        return query
        select e.position, r.last, r.version, e.recorded_at, l.salt, l.request
        from ledger.event e
        join lateral (
            select max(f.position) as last, max(f.version) as version from ledger.event f
            where f.ledger_id = p_ledger_id and f.stream = e.stream and f.version is not null
              and f.version >= e.version and f.correlation_id = e.correlation_id
        ) r on true
        left join ledger.payload l on l.ledger_id = p_ledger_id and l.position = e.position
        where e.ledger_id = p_ledger_id and e.event_id = p_event_id and e.version is not null;
    else
        return query
        select e.position, r.last, null::integer, e.recorded_at, l.salt, coalesce(l.request, k.request)
        from ledger.event e
        join lateral (
            select max(f.position) as last from ledger.event f
            where f.ledger_id = p_ledger_id and f.stream = p_stream and f.epoch = p_epoch
              and f.source = p_source and f.seq = p_seq and f.seq is not null
        ) r on true
        left join ledger.telemetry l
            on l.ledger_id = p_ledger_id and l.stream = p_stream and l.position = e.position
        left join ledger.archived_request k
            on k.ledger_id = p_ledger_id and k.stream = p_stream and k.position = e.position
        where e.ledger_id = p_ledger_id and e.stream = p_stream and e.epoch = p_epoch
          and e.source = p_source and e.seq = p_seq and e.part = 0 and e.seq is not null;
    end if;
end $$;
