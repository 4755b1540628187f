-- Whoever serves sees whether the schema is the one that it was written for.
grant select on public.migration to tachograph;
