-- Search over runs. Facets are single values of what runs contain, one row each; a list of runs by time with filters on
-- status, workflow and archive is answered from one index alone.

create table projection.run_facet (
    ledger_id uuid not null,
    run_id    uuid not null,
    key       text collate "C" not null,
    ordinal   smallint not null,
    number    double precision,
    text      text collate "C",
    primary key (ledger_id, run_id, key, ordinal),
    check ((number is null) <> (text is null))
) with (fillfactor = 90);
create index run_facet_number on projection.run_facet (ledger_id, key, number, run_id) include (ordinal)
    where number is not null;
create index run_facet_text on projection.run_facet (ledger_id, key, text, run_id) include (ordinal)
    where text is not null;

-- No sample of users' values in the planner's statistics.
alter table projection.run_facet
    alter column key set statistics 0, alter column number set statistics 0, alter column text set statistics 0;

create index metric_summary_last on projection.metric_summary (ledger_id, name, last, run_id) where last <> 'NaN';
create index metric_summary_min on projection.metric_summary (ledger_id, name, min, run_id) where min is not null;
create index metric_summary_max on projection.metric_summary (ledger_id, name, max, run_id) where max is not null;

create index run_list on projection.run (ledger_id, created_at desc, run_id desc)
    include (status, workflow_id, archived);
create index run_archived on projection.run (ledger_id, run_id) where archived;
drop index projection.run_created;

grant select, insert, update, delete on projection.run_facet to tachograph;
