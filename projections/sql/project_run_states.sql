-- Write the states of runs whose other columns stay as they are, but for the time of their progress where `progressed`.
-- A state whose event was not appended is passed over. Returns how many were written.
create or replace function projection.project_run_states(
    p_ledger_id uuid, p_recorded_at timestamptz, p_position bigint[], p_states projection.run_state[]
) returns integer language plpgsql as $$
declare
    v_written integer;
begin
    update run
    set version = s.version, position = p_position[s.event], state = s.state,
        progress_at = case when s.progressed then p_recorded_at else progress_at end
    from unnest(p_states) s
    where run.ledger_id = p_ledger_id and run.run_id = s.run_id and p_position[s.event] is not null;
    get diagnostics v_written = row_count;
    return v_written;
end $$;

-- Until the table has statistics, let a planner know that a ledger's id does not tell its runs apart (see append.sql).
select pg_restore_attribute_stats(
    'schemaname', 'projection', 'relname', 'run', 'attname', 'ledger_id', 'inherited', false,
    'null_frac', 0::real, 'avg_width', 16, 'n_distinct', 1::real)
where not exists (
    select from pg_stats s where s.schemaname = 'projection' and s.tablename = 'run' and s.attname = 'ledger_id');
