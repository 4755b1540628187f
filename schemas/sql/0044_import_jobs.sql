-- Imports of uploaded archives: jobs that a process of the API carries out. The archive is the upload of the same id,
-- under its project's own stream. Reports are sealed under the project's key.

create table operation.import_job (
    import_id   uuid primary key,
    ledger_id   uuid not null,
    actor       text not null,
    bytes       bigint not null,
    dry_run     boolean not null,
    state       text not null default 'uploading'
        check (state in ('uploading', 'waiting', 'running', 'finished', 'failed')),
    runs_done   bigint not null default 0,
    runs        bigint not null default 0,      -- how many the archive has; 0 until that is known
    rows_done   bigint not null default 0,      -- points and lines
    attempts    integer not null default 0,
    report      bytea,
    holder      uuid,
    held_until  timestamptz not null default '-infinity',
    created_at  timestamptz not null default clock_timestamp(),
    changed_at  timestamptz not null default clock_timestamp()
);
create index import_job_ledger on operation.import_job (ledger_id, created_at desc, import_id desc);
create index import_job_due on operation.import_job (created_at) where state in ('waiting', 'running');

grant select, insert, update, delete on operation.import_job to tachograph;
