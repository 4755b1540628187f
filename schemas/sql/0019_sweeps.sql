-- Sweeps, and which run is which sweep's trial.
create table projection.sweep (
    sweep_id   uuid primary key,
    ledger_id  uuid not null,
    version    integer not null,
    status     text not null,
    state      bytea not null,
    created_at timestamptz not null
);
create index sweep_created on projection.sweep (ledger_id, created_at desc, sweep_id desc);
create index sweep_running on projection.sweep (sweep_id) where status = 'running';

-- Both outlive a run's deletion: its number is taken for ever.
alter table projection.run add column sweep_id uuid, add column trial integer;
create index run_trial on projection.run (ledger_id, sweep_id, trial) where sweep_id is not null;
create index run_open_trial on projection.run (ledger_id, sweep_id)
    where sweep_id is not null and status in ('queued', 'starting', 'running', 'stopping', 'idle');
