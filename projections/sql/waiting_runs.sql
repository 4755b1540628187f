-- Runs that wait for a worker: of each organisation the first $1, in their order. With the version that they are at.
with recursive o as (
    (select organisation_id from demand where waiting order by organisation_id limit 1)
    union all
    select (select d.organisation_id from demand d where d.waiting and d.organisation_id > o.organisation_id
            order by d.organisation_id limit 1)
    from o where o.organisation_id is not null
)
select q.run_id, q.ledger_id, q.organisation_id, r.version
from o cross join lateral (
    select * from demand d where d.waiting and d.organisation_id = o.organisation_id
    order by d.priority desc, d.created_at, d.run_id limit $1
) q
join run r on r.ledger_id = q.ledger_id and r.run_id = q.run_id
order by q.organisation_id, q.priority desc, q.created_at, q.run_id
