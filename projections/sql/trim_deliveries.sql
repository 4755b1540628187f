-- Keep webhooks' logs within bounds. $1 webhooks, $2 how many ended deliveries of each are kept.
delete from operation.delivery where delivery_id in (
    select e.delivery_id
    from unnest($1::uuid[]) w(webhook_id)
    cross join lateral (
        select d.delivery_id from operation.delivery d
        where d.webhook_id = w.webhook_id and d.state <> 'pending'
        order by d.created_at desc, d.delivery_id offset $2
    ) e
)
