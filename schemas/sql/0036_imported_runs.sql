-- When a run that ended elsewhere was brought here; its other times are those of its origin.
alter table projection.run add column imported_at timestamptz;
