-- A stream's wrapped data key. $1 ledger, $2 stream. Zero rows: no such stream, or erased.
select wrapped from ledger.data_key where ledger_id = $1 and stream = $2
