-- DuckDB. Log lines of some files after a cursor, the first or the last $limit of them. {order} is asc or desc.
select position, line, time_us, stream, text
from read_parquet($files, hive_partitioning = false)
where position >= $position and (position > $position or line > $line)
  and ($stream is null or stream = $stream) and ($search is null or contains(text, $search))
order by position {order}, line {order} limit $limit
