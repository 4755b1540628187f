-- The wrapped data keys of some streams. $1 ledger, $2 streams. A stream without a row was erased, or never was.
select stream, wrapped from ledger.data_key where ledger_id = $1 and stream = any($2)
