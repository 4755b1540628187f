-- The values of a facet with how many runs of a project have each, the most frequent first, in the end those without.
-- $1 ledger, $2 key, $3 whether archived runs are left out; after $4 runs (NULL: from the start) with the number $5 or
-- the text $6; $7 limit. Texts are counted by all columns of their index first, in its order.
with counted as (
    select f.number, null::text as text, count(*) as runs, count(*) filter (where f.ordinal = 0) as holders
    from run_facet f
    where f.ledger_id = $1 and f.key = $2 and f.number is not null and not (f.archived and $3)
    group by f.number
    union all
    select null, t.text, sum(t.runs), coalesce(sum(t.runs) filter (where t.ordinal = 0), 0)
    from (
        select f.text, f.archived, f.ordinal, count(*) as runs
        from run_facet f
        where f.ledger_id = $1 and f.key = $2 and f.text is not null and not (f.archived and $3)
        group by f.text, f.archived, f.ordinal
    ) t
    group by t.text
), every as (
    select number, text collate "C" as text, runs::bigint from counted
    union all
    select null, null, (select count(*) from run where ledger_id = $1 and status <> 'deleted' and not ($3 and archived))
                       - (select coalesce(sum(holders), 0) from counted)::bigint
)
select number as k0, text as k1, runs from every
where runs > 0 and ($4::bigint is null or runs < $4 or runs = $4 and case
          when $5::float8 is not null then number > $5 or number is null
          when $6::text is not null then number is null and (text > $6 or text is null)
          else false end)
order by runs desc, number nulls last, text nulls last limit $7
