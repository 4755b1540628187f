-- What the events add up to. Every row here can be rebuilt from the ledger; names are resolved by search_path, so
-- that the same code fills the schema beside this one when a projection is rebuilt.

create schema projection;
set local search_path = projection;

-- inline: written in the append's own transaction ------------------------------------------------------------

create table organisation (
    organisation_id uuid primary key,
    version         integer not null,
    name            text not null,
    max_active_runs integer not null
);

create table api_key (
    key_id          uuid primary key,
    organisation_id uuid not null,
    label           text not null,
    prefix          text not null,
    sha256          bytea not null unique,
    issued_at       timestamptz not null,
    revoked_at      timestamptz
);

create table worker (
    worker_id       uuid primary key,
    organisation_id uuid not null,
    version         integer not null,
    name            text not null,
    host            jsonb not null,
    slots           jsonb not null,
    registered_at   timestamptz not null,
    lost_at         timestamptz,
    unique (organisation_id, name)
);

create table project (
    project_id      uuid primary key,
    organisation_id uuid not null,
    version         integer not null,
    name            text not null,
    description     text not null,
    created_at      timestamptz not null,
    unique (organisation_id, name)
);

create table workflow (
    workflow_id uuid primary key,
    ledger_id   uuid not null,
    version     integer not null,
    name        text not null,
    archived    boolean not null,
    state       bytea not null,
    created_at  timestamptz not null,
    unique (ledger_id, name)
);

create table run (
    ledger_id         uuid not null,
    run_id            uuid not null,
    version           integer not null,
    position          bigint not null,
    name              text,
    external_id       text,
    status            text not null,
    mode              text not null,
    workflow_id       uuid,
    worker_id         uuid,
    epoch             integer not null,
    kill_requested    boolean not null,
    unresponsive      boolean not null,
    archived          boolean not null,
    purged            boolean not null,
    created_at        timestamptz not null,
    started_at        timestamptz,
    status_since      timestamptz not null,
    kill_requested_at timestamptz,
    ended_at          timestamptz,
    deleted_at        timestamptz,
    state             bytea not null,
    primary key (ledger_id, run_id)
) with (fillfactor = 80);
create unique index run_id on run (run_id);
create unique index run_name on run (ledger_id, name);
create unique index run_external_id on run (ledger_id, external_id) where external_id is not null;
create index run_created on run (ledger_id, created_at desc, run_id desc);
create index run_active on run (status) where status in ('queued', 'starting', 'running', 'stopping', 'idle');
create index run_worker on run (worker_id) where status in ('starting', 'running', 'stopping', 'idle', 'crashed');
create index run_unpurged on run (ledger_id) where status = 'deleted' and not purged;

create table run_transition (
    ledger_id   uuid not null,
    run_id      uuid not null,
    version     integer not null,
    position    bigint not null,
    event       text not null,
    from_status text not null,
    to_status   text not null,
    cause       text,
    actor       text not null,
    epoch       integer not null,
    at          timestamptz not null,
    primary key (ledger_id, run_id, version)
);

-- The manifest: the Parquet files that count. A file that is not here does not exist for any reader.
create table segment (
    ledger_id      uuid not null,
    run_id         uuid not null,
    segment_id     uuid not null,
    position       bigint not null,
    kind           text not null,
    path           text not null,
    rows           bigint not null,
    first_position bigint not null,
    last_position  bigint not null,
    sha256         text not null,
    bytes          bigint not null,
    primary key (ledger_id, run_id, segment_id)
);

-- asynchronous: read the ledger by position, commit rows and checkpoint together ------------------------------

create table checkpoint (
    projection text not null,
    ledger_id  uuid not null,
    position   bigint not null,
    primary key (projection, ledger_id)
);

-- What runs cost. `consumed_micro` is up to the last transition; an accruing run's `state` says how to go on from there.
create table run_credit (
    ledger_id      uuid not null,
    run_id         uuid not null,
    workflow_id    uuid,
    status         text not null,
    accruing       boolean not null,
    consumed_micro bigint not null,
    estimate_micro bigint,
    saved_micro    bigint,
    state          bytea not null,
    primary key (ledger_id, run_id)
);
create unique index run_credit_run on run_credit (run_id);
create index run_credit_accruing on run_credit (ledger_id) where accruing;

create table credit_day (
    ledger_id      uuid not null,
    run_id         uuid not null,
    day            date not null,
    consumed_micro bigint not null,
    primary key (ledger_id, run_id, day)
);

-- Points of a metric. `min` and `max` ignore NaN and are NULL where there is nothing else; of equal ones the smallest
-- step counts. `last` is the value at the largest step, of equal ones the one that arrived last.
create table metric_summary (
    ledger_id    uuid not null,
    run_id       uuid not null,
    name         text not null,
    count        bigint not null,
    nan_count    bigint not null,
    first_step   bigint not null,
    last_step    bigint not null,
    last         double precision not null,
    last_time_us bigint not null,
    min          double precision,
    min_step     bigint,
    max          double precision,
    max_step     bigint,
    primary key (ledger_id, run_id, name)
);
