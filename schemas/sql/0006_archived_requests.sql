-- What tells a batch that is sent again from another one under its seq, once its partition was dropped: a digest under
-- the run's key, which goes with that key when the run is erased.

create table ledger.archived_request (
    ledger_id uuid not null,
    stream    uuid not null,
    position  bigint not null,
    request   bytea not null,
    primary key (ledger_id, stream, position)
);
alter table ledger.archived_request alter column request set statistics 0;
