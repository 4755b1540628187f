-- Refuse an append that makes a trial of a sweep that is not running (any more). It runs inside the append's transaction,
-- under the ledger's lock that a pause, a stop or a cancellation also takes: after one of these no trial is made. Rows that
-- were not appended are passed over. Raises TS001 with the status as detail.
create or replace function projection.check_sweep(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
declare
    v_status text;
begin
    select s.status into v_status
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(sweep_id uuid)
         join sweep s on s.sweep_id = r.sweep_id
    where p_position[x.event] is not null and s.status <> 'running' limit 1;
    if found then
        raise exception 'the sweep is %', v_status using errcode = 'TS001', detail = v_status;
    end if;
end $$;
