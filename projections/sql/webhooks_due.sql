-- Webhooks that something is to be sent to. $1 those that are being sent to.
select distinct webhook_id
from operation.delivery
where state = 'pending' and next_at <= clock_timestamp() and webhook_id <> all ($1::uuid[])
