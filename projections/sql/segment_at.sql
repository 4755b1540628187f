-- The Parquet file that holds a batch. $1 ledger, $2 run, $3 kind, $4 position. Zero rows: no file of the manifest does.
-- Schemas are named, so that a rebuild reads the live manifest.
select path, bytes, sha256, first_position, last_position from projection.segment
where ledger_id = $1 and run_id = $2 and kind = $3 and $4 between first_position and last_position
order by first_position limit 1
