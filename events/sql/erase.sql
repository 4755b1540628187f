-- Destroy a deleted stream's data key and every payload sealed with it; what is sealed under the ledger's own key
-- (the deletion and its receipt) stays. Refuses a stream that is not deleted. Returns what was there.
create or replace function ledger.erase(p_ledger_id uuid, p_stream uuid)
returns table (objects bigint, bytes bigint)
language plpgsql security definer set search_path = '' as $$
#variable_conflict use_column
begin
    perform 1 from ledger.stream s where s.ledger_id = p_ledger_id and s.stream = p_stream and s.gate = 2 for update;
    if not found then
        raise exception 'stream % is not deleted', p_stream using errcode = 'object_not_in_prerequisite_state';
    end if;
    delete from ledger.data_key k where k.ledger_id = p_ledger_id and k.stream = p_stream;
    delete from ledger.archived_request r where r.ledger_id = p_ledger_id and r.stream = p_stream;
    return query
    with lifecycle as (
        delete from ledger.payload p using ledger.event e
        where e.ledger_id = p_ledger_id and e.stream = p_stream and e.version is not null
          and p.ledger_id = e.ledger_id and p.position = e.position
          and e.type not in ('run.deleted', 'run.purged')
        returning length(p.ciphertext) as size
    ), batches as (
        delete from ledger.telemetry t where t.ledger_id = p_ledger_id and t.stream = p_stream
        returning length(t.ciphertext) as size
    )
    select count(*), coalesce(sum(size), 0)::bigint
    from (select size from lifecycle union all select size from batches) gone;
end $$;
