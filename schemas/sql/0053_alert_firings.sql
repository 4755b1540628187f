-- What alert rules fired, for whoever asks what happened: a metric's value stands here and not in the event, since it is
-- its run's and goes with it. `at` is when that was recorded which the rule fired for.
create table operation.alert_firing (
    alert_id    uuid primary key,
    rule_id     uuid not null,
    project_id  uuid not null,
    run_id      uuid,
    position    bigint not null,
    at          timestamptz not null,
    name        text not null,
    metric      text,
    step        bigint,
    value       text
);
create index alert_firing_project on operation.alert_firing (project_id, at desc, alert_id desc);
create index alert_firing_run on operation.alert_firing (run_id) where run_id is not null;

alter table operation.alert_firing alter column name set statistics 0;
alter table operation.alert_firing alter column metric set statistics 0;
alter table operation.alert_firing alter column value set statistics 0;

grant select, insert, update, delete on operation.alert_firing to tachograph;
