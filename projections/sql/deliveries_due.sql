-- What is to be sent to a webhook, what is due longest first. $1 webhook, $2 how many.
select *
from operation.delivery
where webhook_id = $1 and state = 'pending' and next_at <= clock_timestamp()
order by next_at limit $2
