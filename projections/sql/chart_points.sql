-- DuckDB. One metric's points in a range of x, in the files' order. {x} is the x column, {after} may narrow it down.
select step, {x} as x, value
from read_parquet($files, hive_partitioning = false)
where metric = $metric and {x} between $low and $high and ($stage is null or stage = $stage) {after}
