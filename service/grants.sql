-- What the application role may do: append and read events, never change or remove one; keep projections.
grant usage on schema ledger, projection to tachograph;
grant select, insert on all tables in schema ledger to tachograph;
grant update on ledger.head, ledger.stream, ledger.cursor to tachograph;
grant execute on all functions in schema ledger, projection to tachograph;
grant select, insert, update, delete on all tables in schema projection to tachograph;
