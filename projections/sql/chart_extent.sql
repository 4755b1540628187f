-- DuckDB. How many points each metric has in a range of x, and from where to where. {x} is the x column.
select metric, count(*), min({x}), max({x})
from read_parquet($files, hive_partitioning = false)
where metric in (select unnest($metrics)) and {x} between $low and $high and ($stage is null or stage = $stage)
group by metric
