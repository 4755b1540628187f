-- Where a run's events stand, in order: by the stream's own indexes, so that the size of the ledger around it does not
-- matter. $1 ledger, $2 run, $3 after position, $4 up to position, $5 types or NULL, $6 limit. Zero rows: no more.
with mine as materialized (
    select position, type from ledger.event where ledger_id = $1 and stream = $2 and version is not null
    union all
    select position, type from ledger.event where ledger_id = $1 and stream = $2 and seq is not null
)
select position from mine
where position > $3 and position <= $4 and ($5::text[] is null or type = any($5))
order by position limit $6
