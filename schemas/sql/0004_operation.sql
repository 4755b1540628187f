-- What running the system needs to remember and no event says. Nothing here holds a user's text, and nothing here is
-- needed to rebuild a projection.

create schema operation;

-- The end of each JetStream stream as we last saw it stored: if it is behind that, the transport lost its tail.
create table operation.transport_tail (
    stream     text primary key,
    created_at timestamptz not null,
    last_seq   bigint not null,
    last_id    text
);

-- Events that a reader of the ledger cannot take. The reader waits in front of one until it can be taken (`resolved`) or
-- somebody says to go on without it (`discarded`); `retry` asks for a try at once.
create table operation.dead_letter (
    reader     text not null,
    ledger_id  uuid not null,
    position   bigint not null,
    event_id   uuid not null,
    type       text not null,
    state      text not null check (state in ('held', 'retry', 'discarded', 'resolved')),
    error      text not null,
    failures   integer not null,
    first_at   timestamptz not null default clock_timestamp(),
    last_at    timestamptz not null default clock_timestamp(),
    decided_by text,
    decided_at timestamptz,
    primary key (ledger_id, reader, position)
);

-- What each copy of each role last said of itself.
create table operation.role (
    role       text not null,
    instance   text not null,
    leads      boolean not null,
    failures   integer not null,
    restarts   bigint not null,
    last_error text,
    stepped_at timestamptz,
    said_at    timestamptz not null default clock_timestamp(),
    primary key (role, instance)
) with (fillfactor = 50);

-- What the alerter remembers of a rule and a run, as of its cursor.
create table operation.alert_state (
    rule_id  uuid not null,
    run_id   uuid not null,
    state    bytea not null,
    primary key (rule_id, run_id)
);
create index alert_state_run on operation.alert_state (run_id);

-- What is to be sent to webhooks, and what became of it: no bodies, so nothing here outlives a run's erasure. A test
-- delivery has position 0.
create table operation.delivery (
    delivery_id uuid primary key,
    webhook_id  uuid not null,
    ledger_id   uuid not null,
    position    bigint not null,
    run_id      uuid,
    type        text not null,
    state       text not null check (state in ('pending', 'delivered', 'failed')),
    attempts    integer not null default 0,
    next_at     timestamptz not null default clock_timestamp(),
    status      integer,
    error       text,
    created_at  timestamptz not null default clock_timestamp(),
    ended_at    timestamptz
);
create index delivery_due on operation.delivery (next_at) where state = 'pending';
create index delivery_webhook on operation.delivery (webhook_id, created_at desc);
create index delivery_run on operation.delivery (run_id) where run_id is not null;

-- Alert rules and webhooks of projects, inline like the other rows of an organisation's ledger.
create table projection.subscription (
    subscription_id uuid primary key,
    organisation_id uuid not null,
    project_id      uuid not null,
    kind            text not null check (kind in ('alert_rule', 'webhook')),
    version         integer not null,
    state           bytea not null,
    set_at          timestamptz not null,
    removed_at      timestamptz
);
create index subscription_project on projection.subscription (project_id, kind) where removed_at is null;

grant usage on schema operation to tachograph;
grant select, insert, update, delete on all tables in schema operation to tachograph;
