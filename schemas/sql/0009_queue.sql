-- What the queue works with: which runs wait, hold accelerators or are to be tried again, what may be in use at once, and
-- why a run waits.

-- One row a run that waits for a worker, holds a worker's slots (or may still hold them), or is to be tried again;
-- written in the append's transaction only when one of these changes, and gone when none of them is so.
create table projection.demand (
    ledger_id       uuid not null,
    run_id          uuid not null,
    organisation_id uuid not null,
    priority        integer not null,
    created_at      timestamptz not null,
    waiting         boolean not null,
    held            text[] not null,       -- kinds of the slots held
    ended           boolean not null,      -- held by an attempt that has ended without its worker's word
    to_stop         boolean not null,      -- … and must not go on, should its process live
    retry_due       boolean not null,
    primary key (ledger_id, run_id)
) with (fillfactor = 70);
create index demand_waiting on projection.demand (organisation_id, priority desc, created_at, run_id) where waiting;
create index demand_held on projection.demand (organisation_id) where held <> '{}';
create index demand_ended on projection.demand (run_id) where ended;
create index demand_retry on projection.demand (run_id) where retry_due;

-- `plan_limits` and `limits` of the tenant, and `limits` of a project: events.types.Limits as JSON.
alter table projection.organisation
    add column plan text not null default 'default',
    add column plan_limits jsonb not null default '{}',
    add column limits jsonb not null default '{}';
update projection.organisation set plan_limits = jsonb_build_object('max_active_runs', max_active_runs);
alter table projection.project add column limits jsonb not null default '{}';

-- Why a run waits, as the scheduler last found; its words are made from these when somebody asks.
create table operation.waiting (
    run_id   uuid primary key,
    reason   text not null,
    scope    text,
    bound    bigint,
    in_use   bigint,
    since    timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

-- What an operator should look at: a mass silence that is being held. One open row a kind.
create table operation.incident (
    incident_id bigint generated always as identity primary key,
    kind        text not null,
    silent      integer not null,
    watched     integer not null,
    opened_at   timestamptz not null default clock_timestamp(),
    closed_at   timestamptz,
    outcome     text
);
create unique index incident_open on operation.incident (kind) where closed_at is null;

grant select, insert, update, delete on operation.waiting, operation.incident to tachograph;
grant usage on all sequences in schema operation to tachograph;

insert into projection.demand
select r.ledger_id, r.run_id, l.organisation_id, 0, r.created_at, r.status = 'queued',
       case when r.status = 'queued' then '{}'::text[] else '{cpu}' end, false, false, false
from projection.run r join ledger.ledger l on l.ledger_id = r.ledger_id
where r.mode = 'managed' and r.status in ('queued', 'starting', 'running', 'stopping', 'idle');
