-- More columns that hold what users wrote, or what is sealed: no sample of them in the planner's statistics.
do $$
declare
    c record;
begin
    for c in
        select * from (values
            ('projection', 'subscription', 'state'), ('projection', 'account', 'state'),
            ('projection', 'organisation', 'name'), ('projection', 'organisation', 'plan'),
            ('projection', 'api_key', 'label'), ('projection', 'worker', 'slots'),
            ('projection', 'run_credit', 'state'), ('projection', 'demand', 'held'),
            ('projection', 'segment', 'path'), ('projection', 'sweep', 'state'),
            ('projection', 'organisation', 'limits'), ('projection', 'organisation', 'plan_limits'),
            ('projection', 'project', 'limits'), ('operation', 'upload', 'description'),
            ('operation', 'dead_letter', 'error'), ('operation', 'alert_state', 'state'),
            ('operation', 'delivery', 'error'), ('operation', 'role', 'last_error')
        ) as t(in_schema, in_table, in_column)
    loop
        execute format('alter table %I.%I alter column %I set statistics 0', c.in_schema, c.in_table, c.in_column);
        perform pg_clear_attribute_stats(c.in_schema, c.in_table, c.in_column, false);
    end loop;
end $$;
