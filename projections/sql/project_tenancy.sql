-- Write what an append says of an organisation: itself, its keys, its workers, its projects' and workflows' rows.
-- One function a table; a time of infinity is the append's own.
create or replace function projection.project_organisation(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into organisation (
        organisation_id, version, name, max_active_runs, plan, plan_limits, limits, kill_when_exhausted)
    select p_ledger_id, r.version, r.name, r.max_active_runs, r.plan, r.plan_limits, r.limits,
           coalesce(r.kill_when_exhausted, false)
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             version integer, name text, max_active_runs integer, plan text, plan_limits jsonb, limits jsonb,
             kill_when_exhausted boolean)
    where p_position[x.event] is not null
    on conflict (organisation_id) do update
        set (version, name, max_active_runs, plan, plan_limits, limits, kill_when_exhausted)
            = row (excluded.version, excluded.name, excluded.max_active_runs, excluded.plan, excluded.plan_limits,
                   excluded.limits, excluded.kill_when_exhausted)
$$;

-- A key that was changed or revoked is told to whoever remembers it (see service/keys.py), once this has committed.
create or replace function projection.project_key(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into api_key (
        key_id, organisation_id, version, label, prefix, sha256, role, projects, issued_at, expires_at, revoked_at)
    select r.key_id, p_ledger_id, coalesce(r.version, 1), r.label, r.prefix, decode(r.sha256, 'base64'),
           coalesce(r.role, 'admin'), r.projects, coalesce(nullif(r.issued_at, 'infinity'), p_recorded_at),
           r.expires_at, case r.revoked_at when 'infinity' then p_recorded_at else r.revoked_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             key_id uuid, version integer, label text, prefix text, sha256 text, role text, projects uuid[],
             issued_at timestamptz, expires_at timestamptz, revoked_at timestamptz)
    where p_position[x.event] is not null
    on conflict (key_id) do update
        set (version, label, expires_at, revoked_at)
            = row (excluded.version, excluded.label, excluded.expires_at, excluded.revoked_at);

    select pg_notify('tachograph_key', x.row ->> 'key_id')
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb)
    where p_position[x.event] is not null and (x.row ->> 'version')::integer > 1
$$;

create or replace function projection.project_worker(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into worker
    select r.worker_id, p_ledger_id, r.version, r.name, r.host, r.slots,
           coalesce(nullif(r.registered_at, 'infinity'), p_recorded_at),
           case r.lost_at when 'infinity' then p_recorded_at else r.lost_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             worker_id uuid, version integer, name text, host jsonb, slots jsonb, registered_at timestamptz,
             lost_at timestamptz)
    where p_position[x.event] is not null
    on conflict (worker_id) do update
        set (version, name, host, slots, registered_at, lost_at)
            = row (excluded.version, excluded.name, excluded.host, excluded.slots, excluded.registered_at,
                   excluded.lost_at)
$$;

create or replace function projection.project_worker_standing(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    update worker w
    set version = r.version, lost_at = case r.lost_at when 'infinity' then p_recorded_at else r.lost_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(worker_id uuid, version integer, lost_at timestamptz)
    where p_position[x.event] is not null and w.worker_id = r.worker_id
$$;

create or replace function projection.project_worker_drain(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    update worker w
    set version = r.version, drained_at = case r.drained_at when 'infinity' then p_recorded_at else r.drained_at end
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(worker_id uuid, version integer, drained_at timestamptz)
    where p_position[x.event] is not null and w.worker_id = r.worker_id
$$;

create or replace function projection.project_project(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into project (project_id, organisation_id, version, name, description, created_at, limits)
    select p_ledger_id, r.organisation_id, r.version, r.name, r.description,
           coalesce(nullif(r.created_at, 'infinity'), p_recorded_at), r.limits
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             organisation_id uuid, version integer, name text, description text, created_at timestamptz, limits jsonb)
    where p_position[x.event] is not null
    on conflict (project_id) do update
        set (version, name, description, limits)
            = row (excluded.version, excluded.name, excluded.description, excluded.limits)
$$;

create or replace function projection.project_workflow(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_rows jsonb
) returns void language sql as $$
    insert into workflow
    select r.workflow_id, p_ledger_id, r.version, r.name, r.archived, decode(r.state, 'base64'),
           coalesce(nullif(r.created_at, 'infinity'), p_recorded_at)
    from jsonb_to_recordset(p_rows) as x(event integer, row jsonb),
         jsonb_to_record(x.row) as r(
             workflow_id uuid, version integer, name text, archived boolean, state text, created_at timestamptz)
    where p_position[x.event] is not null
    on conflict (workflow_id) do update
        set (version, name, archived, state) = row (excluded.version, excluded.name, excluded.archived,
                                                    excluded.state)
$$;
