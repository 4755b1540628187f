-- Which run a run reproduces, so that the original can say what came of it.

alter table projection.run add column reproduced_from uuid;
create index run_reproductions on projection.run (ledger_id, reproduced_from) where reproduced_from is not null;
