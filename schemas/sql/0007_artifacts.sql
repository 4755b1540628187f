-- Artifacts: what is saved of each run (inline), and the uploads that are under way.

create table projection.artifact (
    ledger_id   uuid not null,
    artifact_id uuid not null,
    run_id      uuid not null,
    position    bigint not null,
    name        text not null,
    kind        text not null,
    bytes       bigint not null,
    sha256      text not null,
    media_type  text not null,
    caption     text not null,
    blob_id     uuid not null,      -- where its content lies; one blob may be the content of several artifacts of a run
    part_bytes  integer not null,   -- and into how long parts it is cut
    saved_at    timestamptz not null,
    primary key (ledger_id, artifact_id)
);
create index artifact_name on projection.artifact (ledger_id, run_id, name, position);
create index artifact_blob on projection.artifact (blob_id);
create index artifact_bytes on projection.artifact (ledger_id) include (bytes);

-- Users' texts, and what tells about contents, are kept off the planner's statistics.
alter table projection.artifact
    alter column name set statistics 0, alter column caption set statistics 0, alter column media_type set statistics 0,
    alter column sha256 set statistics 0;

-- Uploads under way: the room that they have reserved, how much of them is durable, and who may write to them now. What
-- is to become of them is sealed under their run's key.
create table operation.upload (
    upload_id       uuid primary key,
    ledger_id       uuid not null,
    run_id          uuid not null,
    organisation_id uuid not null,
    bytes           bigint not null,
    received        bigint not null default 0,
    description     bytea not null,
    holder          uuid,
    held_until      timestamptz not null default '-infinity',
    removing        boolean not null default false,
    touched_at      timestamptz not null default clock_timestamp()
);
create index upload_run on operation.upload (ledger_id, run_id) include (bytes);
create index upload_organisation on operation.upload (organisation_id) include (bytes);
create index upload_touched on operation.upload (touched_at);

grant select, insert, update, delete on operation.upload to tachograph;
