-- The end of each JetStream stream as it was last seen stored.
select stream, created_at, last_seq, last_id from operation.transport_tail
