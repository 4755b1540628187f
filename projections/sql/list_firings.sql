-- A project's firings, newest first. $1 project, $2 rule or NULL, $3 run or NULL, $4 and $5 the last one seen or NULL,
-- $6 limit.
select * from operation.alert_firing
where project_id = $1
  and ($2::uuid is null or rule_id = $2)
  and ($3::uuid is null or run_id = $3)
  and ($4::timestamptz is null or (at, alert_id) < ($4, $5::uuid))
order by at desc, alert_id desc limit $6
