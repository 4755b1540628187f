-- Beside a file of metrics there may be one of its levels: buckets of its points, ever wider, for charts.

alter table projection.segment add column levels_path text, add column levels_bytes bigint;
alter table projection.segment alter column levels_path set statistics 0;
