-- Keep a project's firings within bounds. $1 project, $2 how many are kept.
delete from operation.alert_firing f
using (
    select at, alert_id from operation.alert_firing where project_id = $1
    order by at desc, alert_id desc offset $2 limit 1
) o
where f.project_id = $1 and (f.at, f.alert_id) <= (o.at, o.alert_id)
