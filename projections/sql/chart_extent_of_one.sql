-- DuckDB. How many points one metric has in a range of x, and from where to where; without a range or stage this
-- is mostly answered from the files' statistics. {x} is the x column, {after} may narrow it down. Always one row.
select $metric, count(*), min({x}), max({x})
from read_parquet($files, hive_partitioning = false)
where metric = $metric and {x} between $low and $high and ($stage is null or stage = $stage) {after}
