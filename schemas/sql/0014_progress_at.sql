-- When a run last reported its progress: the rate is counted by the ledger's time, which the state cannot know yet.

alter table projection.run add column progress_at timestamptz;
