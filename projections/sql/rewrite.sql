-- Rewrite a table that holds users' texts or keys in clear, with its indexes and its TOAST table: only rows that are alive
-- are copied, so that nothing of deleted ones is left in free space. Nobody can use the table meanwhile; raises
-- lock_not_available where others hold it for too long, or while a rebuild is under way: what that folded before the
-- deletion is in its pages, and becomes the live table. What a dead rebuild left behind goes.
create or replace function projection.rewrite(p_table text) returns void
language plpgsql security definer set search_path = '' set lock_timeout = '1s' as $$
begin
    if not pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('tachograph.rebuild')) then
        raise exception 'a projection is being rebuilt' using errcode = 'lock_not_available';
    end if;
    drop schema if exists projection_next cascade;
    drop schema if exists projection_old cascade;
    case p_table
        when 'run' then
            alter table projection.run alter column state type bytea using state || ''::bytea;
        when 'run_facet' then
            alter table projection.run_facet alter column ordinal type smallint using (ordinal + 0)::smallint;
        when 'artifact' then
            alter table projection.artifact alter column bytes type bigint using bytes + 0;
        when 'metric_summary' then
            alter table projection.metric_summary alter column count type bigint using count + 0;
        when 'alert_state' then
            alter table operation.alert_state alter column state type bytea using state || ''::bytea;
        when 'alert_firing' then
            alter table operation.alert_firing alter column position type bigint using position + 0;
        when 'data_key' then
            alter table ledger.data_key alter column wrapped type bytea using wrapped || ''::bytea;
    end case;
end $$;
