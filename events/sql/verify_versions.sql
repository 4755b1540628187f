-- Those of some streams whose first version of a page ($3) does not follow on what stands before the page.
-- $1 ledger, $2 streams, $4 the page's first position.
select p.stream, p.version
from unnest($2::uuid[], $3::integer[]) as p(stream, version)
where (p.version > 1) is distinct from exists (
        select 1 from ledger.event e
        where e.ledger_id = $1 and e.stream = p.stream and e.version = p.version - 1 and e.position < $4)
   or exists (
        select 1 from ledger.event e
        where e.ledger_id = $1 and e.stream = p.stream and e.version = p.version and e.position < $4)
