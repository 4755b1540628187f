-- Write what an append says of alert rules and webhooks; a time of infinity is the append's own. What is set again is told
-- what happens from then on; what is removed keeps when it was set.
create or replace function projection.project_subscription(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into subscription
    select r.subscription_id, p_ledger_id, r.project_id, r.kind, r.version, decode(r.state, 'base64'),
           coalesce(nullif(r.set_at, 'infinity'), p_recorded_at),
           case r.removed_at when 'infinity' then p_recorded_at else r.removed_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             subscription_id uuid, project_id uuid, kind text, version integer, state text, set_at timestamptz,
             removed_at timestamptz)
    where p_position[x.event] is not null
    on conflict (subscription_id) do update
        set version = excluded.version, state = excluded.state, removed_at = excluded.removed_at,
            set_at = case when excluded.removed_at is null then excluded.set_at else subscription.set_at end
$$;
