-- Remember the ends of streams. $1 streams, $2 created at, $3 last sequences, $4 last message ids.
insert into operation.transport_tail as t (stream, created_at, last_seq, last_id)
select * from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::text[])
on conflict (stream) do update
    set created_at = excluded.created_at, last_seq = excluded.last_seq, last_id = excluded.last_id
where (t.created_at, t.last_seq, t.last_id) is distinct from (excluded.created_at, excluded.last_seq, excluded.last_id)
