-- Files that were merged into others: no reader begins to read them any more, and they are removed a while later.
create table projection.replaced_segment (
    ledger_id   uuid not null,
    run_id      uuid not null,
    segment_id  uuid not null,
    replaced_at timestamptz not null,
    path        text not null,
    levels_path text,
    primary key (ledger_id, run_id, segment_id)
);
create index replaced_segment_at on projection.replaced_segment (replaced_at);
alter table projection.replaced_segment
    alter column path set statistics 0, alter column levels_path set statistics 0;
