-- Have events sent to webhooks; what is there already stays as it is. $1 ids, $2 webhooks, $3 ledger, $4 positions,
-- $5 runs, $6 types.
insert into operation.delivery (delivery_id, webhook_id, ledger_id, position, run_id, type, state)
select d.id, d.webhook, $3, d.position, d.run, d.type, 'pending'
from unnest($1::uuid[], $2::uuid[], $4::bigint[], $5::uuid[], $6::text[]) d(id, webhook, position, run, type)
on conflict (delivery_id) do nothing
