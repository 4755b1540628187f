-- Give up the oldest of what waits for webhooks that are sent more than they take. $1 webhooks, $2 how many of each may wait.
update operation.delivery
set state = 'failed', error = 'given up: over ' || $2 || ' deliveries of this webhook waited', ended_at = clock_timestamp()
where delivery_id in (
    select e.delivery_id
    from unnest($1::uuid[]) w(webhook_id)
    cross join lateral (
        select d.delivery_id from operation.delivery d
        where d.webhook_id = w.webhook_id and d.state = 'pending'
        order by d.created_at desc, d.position desc offset $2::integer
    ) e
)
