-- Note what a store other than Postgres has of a run, before it goes; of several looks the one that saw most counts.
-- $1 ledger, $2 run, $3 store, $4 objects, $5 bytes.
insert into purge as p values ($1, $2, $3, $4, $5)
on conflict (ledger_id, run_id, store) do update
    set objects = greatest(p.objects, excluded.objects), bytes = greatest(p.bytes, excluded.bytes)
