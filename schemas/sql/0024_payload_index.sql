-- An erasure finds a stream's payloads by its events. The index by stream was written at every append and read by nothing
-- else.
drop index ledger.payload_stream;
