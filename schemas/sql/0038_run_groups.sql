-- How many runs of a project are in which state, of which workflow, archived or not; and the runs of such a group where
-- they are few. Equal entries share their space, so that counting 100,000 runs reads under a hundred pages.
create index run_group on projection.run (ledger_id, status, workflow_id, archived);
