-- What a key is for, what it is confined to and until when it opens anything. Keys of before open everything.
alter table projection.api_key
    add column version    integer not null default 1,
    add column role       text not null default 'admin' check (role in ('viewer', 'member', 'admin', 'worker')),
    add column projects   uuid[],
    add column expires_at timestamptz;
update projection.api_key set version = 2 where revoked_at is not null;
create index api_key_organisation on projection.api_key (organisation_id, issued_at desc, key_id desc);

-- When a key was last used, to about a minute.
create table operation.key_use (
    key_id  uuid primary key,
    used_at timestamptz not null
);
grant select, insert, update, delete on operation.key_use to tachograph;
