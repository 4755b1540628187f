-- How many reproductions lead to a run, counted up to a bound. $1 ledger, $2 run, $3 the bound. Always one row.
with recursive chain(run_id, length) as (
    select $2::uuid, 0
    union all
    select r.reproduced_from, c.length + 1 from chain c join run r on r.ledger_id = $1 and r.run_id = c.run_id
    where r.reproduced_from is not null and c.length < $3
)
select max(length) from chain
