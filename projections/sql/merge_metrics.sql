-- Merge the summary of a page of points into the metrics' summaries. $1 ledger, then one element a run and metric in
-- the order of the table's columns. What arrived earlier is in the table; that decides ties of `last`.
insert into metric_summary as m
select $1, p.* from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::float8[],
                           $9::bigint[], $10::float8[], $11::bigint[], $12::float8[], $13::bigint[]) as p
on conflict (ledger_id, run_id, name) do update set
    (count, nan_count, first_step, last_step, last, last_time_us, min, min_step, max, max_step)
    = row (
        m.count + excluded.count,
        m.nan_count + excluded.nan_count,
        least(m.first_step, excluded.first_step),
        greatest(m.last_step, excluded.last_step),
        case when excluded.last_step >= m.last_step then excluded.last else m.last end,
        case when excluded.last_step >= m.last_step then excluded.last_time_us else m.last_time_us end,
        case when (excluded.min, excluded.min_step) < (m.min, m.min_step) or m.min is null
             then excluded.min else m.min end,
        case when (excluded.min, excluded.min_step) < (m.min, m.min_step) or m.min is null
             then excluded.min_step else m.min_step end,
        case when (-excluded.max, excluded.max_step) < (-m.max, m.max_step) or m.max is null
             then excluded.max else m.max end,
        case when (-excluded.max, excluded.max_step) < (-m.max, m.max_step) or m.max is null
             then excluded.max_step else m.max_step end)
