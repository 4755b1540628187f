-- Workers that take no new runs, and plans that end what runs once the credits are used up.
alter table projection.worker add column drained_at timestamptz;
alter table projection.organisation add column kill_when_exhausted boolean not null default false;
