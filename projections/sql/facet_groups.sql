-- The values of a facet with how many runs of a project have each, the most frequent first, and beside each how many
-- runs have any at all; one row without a value where there is none to tell. $1 ledger, $2 key, $3 whether archived
-- runs are left out; after $4 runs (NULL: from the start) with the number $5 or the text $6, or after those without
-- any; $7 limit.
with counted as (
    select f.number, null::text as text, count(*) as runs, count(*) filter (where f.ordinal = 0) as holders
    from run_facet f
    where f.ledger_id = $1 and f.key = $2 and f.number is not null and not (f.archived and $3)
    group by f.number
    union all
    select null, f.text, count(*), count(*) filter (where f.ordinal = 0)
    from run_facet f
    where f.ledger_id = $1 and f.key = $2 and f.text is not null and not (f.archived and $3)
    group by f.text
)
select p.number as k0, p.text as k1, p.runs, h.holders
from (select coalesce(sum(holders), 0)::bigint as holders from counted) h
left join (
    select number, text collate "C" as text, runs from counted
    where $4::bigint is null or runs < $4 or runs = $4 and case
              when $5::float8 is not null then number > $5 or number is null
              when $6::text is not null then text > $6
              else false end
    order by runs desc, number nulls last, text limit $7
) p on true
order by p.runs desc, p.number nulls last, p.text
