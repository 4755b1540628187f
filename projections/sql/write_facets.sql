-- Write facets of runs. $1 ledger, then one element a row in the order of the table's columns.
insert into run_facet
select $1, w.* from unnest($2::uuid[], $3::text[], $4::smallint[], $5::float8[], $6::text[], $7::boolean[]) as w
