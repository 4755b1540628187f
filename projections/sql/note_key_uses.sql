-- Say when keys ($1) were used ($2, a time each). One that was used later since, as another process says, stays so.
insert into operation.key_use (key_id, used_at)
select * from unnest($1::uuid[], $2::timestamptz[])
on conflict (key_id) do update set used_at = greatest(key_use.used_at, excluded.used_at)
