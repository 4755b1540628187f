-- Of some streams one whose row lets telemetry in otherwise than its run is due: its attempt, or its gate (2 deleted, 0 not
-- started yet, else 1; as `projections.execute.gate`). What is no run has neither. $1 ledger, $2 streams. Zero rows: none.
select d.* from (
    select s.stream, s.epoch, s.gate, coalesce(r.epoch, 0) as attempt, coalesce(r.position, 0) as position,
           case when r.run_id is null then 0
                when r.status = 'deleted' then 2
                when r.status = 'queued' or r.epoch = 0 then 0
                else 1 end as due
    from ledger.stream s
    left join projection.run r on r.ledger_id = s.ledger_id and r.run_id = s.stream
    where s.ledger_id = $1 and s.stream = any($2)
) d
where d.epoch <> d.attempt or d.gate <> d.due
order by d.position limit 1
