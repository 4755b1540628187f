-- The ledger: what happened, in order, for ever. Owned by the migrating role; the application role gets only what
-- an append and a read need, and neither UPDATE nor DELETE on events.

create schema ledger;

create table ledger.ledger (
    ledger_id       uuid primary key,
    organisation_id uuid not null,
    kind            text not null check (kind in ('organisation', 'project')),
    created_at      timestamptz not null default clock_timestamp()
);

-- One row a ledger; appending locks it, so positions are gapless and the chain is a chain.
create table ledger.head (
    ledger_id   uuid primary key references ledger.ledger,
    position    bigint not null default 0,
    chain       bytea not null default decode(repeat('00', 32), 'hex'),
    recorded_at timestamptz not null default '-infinity'
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- One row a stream: its version, its latest attempt, and whether telemetry may come.
create table ledger.stream (
    ledger_id uuid not null,
    stream    uuid not null,
    version   integer not null,
    epoch     integer not null default 0,
    gate      smallint not null default 0,   -- 0 closed, 1 open, 2 erased
    primary key (ledger_id, stream)
) with (fillfactor = 70);

create table ledger.event (
    ledger_id      uuid not null,
    position       bigint not null,
    event_id       uuid not null,
    stream         uuid not null,
    version        integer,
    type           text not null,
    schema_version smallint not null,
    actor          text not null,
    cause          text,
    correlation_id uuid,
    causation_id   uuid,
    epoch          integer,
    source         text,
    seq            bigint,
    part           smallint,
    occurred_at    timestamptz not null,
    recorded_at    timestamptz not null,
    commitment     bytea not null,
    chain          bytea not null,
    primary key (ledger_id, position),
    check ((version is null) = (seq is not null)),
    check ((seq is null) = (source is null) and (seq is null) = (part is null))
);
create unique index event_id on ledger.event (ledger_id, event_id) where version is not null;
create unique index event_version on ledger.event (ledger_id, stream, version) where version is not null;
create unique index event_telemetry on ledger.event (ledger_id, stream, epoch, source, seq, part)
    where seq is not null;

-- Sealed payloads of lifecycle events; a row goes only when its run is erased.
create table ledger.payload (
    ledger_id  uuid not null,
    position   bigint not null,
    stream     uuid not null,
    salt       bytea not null,
    request    bytea,
    ciphertext bytea not null,
    primary key (ledger_id, position)
);
create index payload_stream on ledger.payload (ledger_id, stream);
alter table ledger.payload alter column ciphertext set storage external;

-- Sealed telemetry batches; a partition goes once all of it is in Parquet.
create table ledger.telemetry (
    ledger_id   uuid not null,
    stream      uuid not null,
    position    bigint not null,
    recorded_at timestamptz not null,
    salt        bytea not null,
    request     bytea,
    ciphertext  bytea not null
) partition by range (recorded_at);
alter table ledger.telemetry alter column ciphertext set storage external;
create index telemetry_position on ledger.telemetry (ledger_id, stream, position);
create table ledger.telemetry_default partition of ledger.telemetry default;

-- Wrapped data keys, one a stream; erasing a run destroys its row.
create table ledger.data_key (
    ledger_id uuid not null,
    stream    uuid not null,
    wrapped   bytea not null,
    primary key (ledger_id, stream)
);

-- How far each reader of a ledger has come.
create table ledger.cursor (
    reader    text not null,
    ledger_id uuid not null,
    position  bigint not null,
    moved_at  timestamptz not null default clock_timestamp(),
    primary key (reader, ledger_id)
) with (fillfactor = 50);
