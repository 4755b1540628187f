-- Write what an append says of an organisation's account.
create or replace function projection.project_account(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into account
    select r.account_id, p_ledger_id, r.version, decode(r.state, 'base64')
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(account_id uuid, version integer, state text)
    where p_position[x.event] is not null
    on conflict (account_id) do update set (version, state) = row (excluded.version, excluded.state)
$$;
