-- The runs with at least $1 files of a kind.
select ledger_id, run_id, kind from segment group by ledger_id, run_id, kind having count(*) >= $1
