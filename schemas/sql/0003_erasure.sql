-- What a deletion needs to leave no byte: no sample of users' texts in the planner's statistics, and a place where a purge
-- remembers what it found, whatever happens to the process that does it.

do $$
declare
    c record;
begin
    for c in
        select * from (values
            ('projection', 'project', 'name'), ('projection', 'project', 'description'),
            ('projection', 'workflow', 'name'), ('projection', 'workflow', 'state'),
            ('projection', 'run', 'name'), ('projection', 'run', 'external_id'), ('projection', 'run', 'state'),
            ('projection', 'metric_summary', 'name'),
            ('projection', 'worker', 'name'), ('projection', 'worker', 'host'),
            ('ledger', 'data_key', 'wrapped'), ('ledger', 'payload', 'salt'), ('ledger', 'payload', 'request'),
            ('ledger', 'payload', 'ciphertext')
        ) as t(in_schema, in_table, in_column)
    loop
        execute format('alter table %I.%I alter column %I set statistics 0', c.in_schema, c.in_table, c.in_column);
        perform pg_clear_attribute_stats(c.in_schema, c.in_table, c.in_column, false);
    end loop;
end $$;

-- What each store gave up so far of a run that is being purged; gone once the receipt is an event.
create table projection.purge (
    ledger_id uuid not null,
    run_id    uuid not null,
    store     text not null,
    objects   bigint not null,
    bytes     bigint not null,
    primary key (ledger_id, run_id, store)
);
