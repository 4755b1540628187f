-- DuckDB. Several metrics' points in a range of x, in the files' order (which a join would not keep); `series`
-- counts from 0 in $metrics, `file` in $files, and $first and $last are the outermost metrics by name. {x} is the x
-- column, {after} may narrow it down.
select step, {x} as x, value, (list_position($metrics, metric) - 1)::smallint as series, file_index::integer as file
from read_parquet($files, hive_partitioning = false)
where metric between $first and $last and list_contains($metrics, metric)
  and {x} between $low and $high and ($stage is null or stage = $stage) {after}
