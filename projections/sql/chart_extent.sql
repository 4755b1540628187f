-- DuckDB. How many points each metric has in a range of x, and from where to where; $first and $last are the
-- outermost metrics by name, so that their row groups alone are read. {x} is the x column, {after} may narrow it down.
select metric, count(*), min({x}), max({x})
from read_parquet($files, hive_partitioning = false)
where metric between $first and $last and list_contains($metrics, metric)
  and {x} between $low and $high and ($stage is null or stage = $stage) {after}
group by metric
