-- Refuse an append that leaves the organisation without a key that may make others: one of the role admin, in force, that
-- never expires. It runs inside the append's transaction, after the keys are written; appends to a ledger wait for each
-- other. Rows that were not appended are passed over. Raises TQ003.
create or replace function projection.check_admin(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
begin
    if exists (
        select from jsonb_to_recordset(p_rows) as x(event integer, row jsonb) where p_position[x.event] is not null
    ) and not exists (
        select from api_key
        where organisation_id = p_ledger_id and role = 'admin' and revoked_at is null and expires_at is null
    ) then
        raise exception 'the last key of the role admin' using errcode = 'TQ003';
    end if;
end $$;
