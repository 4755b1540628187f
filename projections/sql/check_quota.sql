-- Refuse an append whose claims pass a quota: of the plan, of the organisation, of the project. It runs inside the
-- append's transaction, after the claims are written, under the organisation's row lock: claims of an organisation wait
-- for each other here, in whatever ledger they are, and each sees those before it. Rows that were not appended are passed
-- over. Raises TQ001 with scope, kind (none: active runs), bound and what is in use beside the claim as JSON.
create or replace function projection.check_quota(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language plpgsql as $$
declare
    v_kinds        text[];
    v_organisation uuid;
    v_passed       record;
begin
    select array_agg(distinct k.kind) into v_kinds
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(kinds text[]), unnest(r.kinds) as k(kind)
    where p_position[x.event] is not null;
    if v_kinds is null then
        return;
    end if;
    select organisation_id into v_organisation from ledger.ledger where ledger_id = p_ledger_id;
    perform from organisation where organisation_id = v_organisation for update;

    with bounds as (
        select 'plan' as scope, null::uuid as ledger_id, plan_limits as limits from organisation
        where organisation_id = v_organisation
        union all
        select 'organisation', null, limits from organisation where organisation_id = v_organisation
        union all
        select 'project', p_ledger_id, limits from project where project_id = p_ledger_id
    ), wanted as (
        select scope, ledger_id, null as kind, (limits ->> 'max_active_runs')::bigint as bound from bounds
        where limits ->> 'max_active_runs' is not null
        union all
        select b.scope, b.ledger_id, a.key, a.value::bigint
        from bounds b cross join lateral jsonb_each_text(coalesce(b.limits -> 'accelerators', '{}')) a
        where exists (select from unnest(v_kinds) k where projection.serves(k, a.key))
    ), used as (
        select w.*, (
            select case when w.kind is null then count(distinct d.run_id) else count(h.kind) end
            from demand d cross join lateral unnest(d.held) h(kind)
            where d.organisation_id = v_organisation and d.held <> '{}'
              and (w.ledger_id is null or d.ledger_id = w.ledger_id)
              and (w.kind is null or projection.serves(h.kind, w.kind))) as in_use
        from wanted w
    )
    select * into v_passed from used where in_use > bound limit 1;
    if found then
        raise exception 'a claim passes the quota of the %', v_passed.scope using
            errcode = 'TQ001',
            detail = jsonb_build_object('scope', v_passed.scope, 'kind', v_passed.kind, 'bound', v_passed.bound,
                                        'in_use', v_passed.in_use)::text;
    end if;
end $$;

-- Whether a slot's kind is what is asked for: as events.accelerators.serves.
create or replace function projection.serves(p_kind text, p_asked text) returns boolean language sql immutable as $$
    select p_asked = p_kind or starts_with(p_kind, p_asked || ':') or (p_asked = 'gpu' and p_kind <> 'cpu')
$$;
