-- The owner migrates, the application role works; what the latter may do is granted by the migrations. Repeatable.
select 'create role tachograph_owner login'
where not exists (select from pg_roles where rolname = 'tachograph_owner') \gexec
select 'create role tachograph login'
where not exists (select from pg_roles where rolname = 'tachograph') \gexec
select 'create database tachograph owner tachograph_owner'
where not exists (select from pg_database where datname = 'tachograph') \gexec
