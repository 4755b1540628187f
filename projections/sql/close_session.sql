-- End a session ($1, its SHA-256), and tell whoever remembers it on the channel $2.
with ended as (delete from operation.session where sha256 = $1 returning key_id)
select pg_notify($2, key_id::text) from ended
