-- The runs with batches in Postgres from before $1, and up to where each kind of them may leave: it is in Parquet,
-- and whoever else reads payloads by position (the relay, the projections) has passed it.
select t.ledger_id, t.stream,
       least(coalesce(max(s.last_position) filter (where s.kind = 'metrics'), 0), f.passed) as metrics,
       least(coalesce(max(s.last_position) filter (where s.kind = 'logs'), 0), f.passed) as logs,
       coalesce(array_agg(s.path) filter (where s.path is not null), '{}') as paths,
       coalesce(array_agg(s.bytes) filter (where s.path is not null), '{}') as sizes,
       coalesce(array_agg(s.sha256) filter (where s.path is not null), '{}') as digests
from (select distinct ledger_id, stream from ledger.telemetry where recorded_at < $1) t
left join segment s on s.ledger_id = t.ledger_id and s.run_id = t.stream
cross join lateral (
    select min(coalesce(c.position, p.position, 0)) as passed   -- who has not begun holds everything
    from (values ('relay'), ('alerter'), ('credits'), ('metrics')) r(reader)
    left join ledger.cursor c on c.reader = r.reader and c.ledger_id = t.ledger_id
    left join checkpoint p on p.projection = r.reader and p.ledger_id = t.ledger_id
) f
group by t.ledger_id, t.stream, f.passed
