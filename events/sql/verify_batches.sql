-- A page of a ledger's batches that are still in Postgres, by stream, position and time: the first that is of no event
-- (`stray`), and where the next page begins (`following`, NULL: this was the last). $1 ledger, $2 $3 $4 after stream,
-- position and time, $5 limit. One row.
with page as (
    select t.stream, t.position, t.recorded_at, e.position is null as stray
    from (
        select stream, position, recorded_at from ledger.telemetry
        where ledger_id = $1 and (stream, position, recorded_at) > ($2, $3, $4)
        order by stream, position, recorded_at limit $5
    ) t
    left join ledger.event e on e.ledger_id = $1 and e.position = t.position and e.stream = t.stream
        and e.recorded_at = t.recorded_at and e.seq is not null
)
select (select min(position) from page where stray) as stray,
       case when (select count(*) from page) = $5 then
           (select (stream, position, recorded_at) from page order by stream desc, position desc, recorded_at desc limit 1)
       end as following
