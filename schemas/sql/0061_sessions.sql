-- Sessions of browsers: each stands for the key that it was opened with, for a while.
create table operation.session (
    sha256     bytea primary key,
    key_id     uuid not null,
    expires_at timestamptz not null
);
create index session_expires on operation.session (expires_at);
grant select, insert, update, delete on operation.session to tachograph;
