-- Those of some streams that were not deleted. $1 ledger, $2 streams.
select s.stream from unnest($2::uuid[]) as s(stream)
where not exists (
    select 1 from ledger.stream l where l.ledger_id = $1 and l.stream = s.stream and l.gate = 2
)
