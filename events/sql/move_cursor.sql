-- Move a reader on, never back. $1 reader, $2 ledger, $3 position.
insert into ledger.cursor as c (reader, ledger_id, position) values ($1, $2, $3)
on conflict (reader, ledger_id) do update set position = excluded.position, moved_at = clock_timestamp()
where c.position < excluded.position
