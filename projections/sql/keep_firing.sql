-- Keep what a rule fired; a page done again finds it there.
insert into operation.alert_firing (
    alert_id, rule_id, project_id, run_id, position, at, name, metric, step, value
) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (alert_id) do nothing
