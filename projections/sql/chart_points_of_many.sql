-- DuckDB. Several metrics' points in a range of x, in the files' order (which a join would not keep); `series`
-- counts from 0 in $metrics, and $first and $last are the outermost of them by name. {x} is the x column.
select step, {x} as x, value, (list_position($metrics, metric) - 1)::smallint as series
from read_parquet($files, hive_partitioning = false)
where metric between $first and $last and list_contains($metrics, metric)
  and {x} between $low and $high and ($stage is null or stage = $stage)
