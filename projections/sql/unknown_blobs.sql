-- Which blobs of ledgers of ours belong to no artifact and no upload. $1 ledgers, $2 blobs: one element each.
select f.blob_id
from unnest($1::uuid[], $2::uuid[]) as f(ledger_id, blob_id)
where exists (select from ledger.ledger l where l.ledger_id = f.ledger_id)
  and not exists (select from operation.upload u where u.upload_id = f.blob_id)
  and not exists (select from artifact a where a.blob_id = f.blob_id)
