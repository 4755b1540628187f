-- Artifacts of a run by name, of one name newest first. $1 ledger, $2 run, $3 kind or NULL, $4 what names begin with,
-- $5 whether with older versions, $6 and $7 the name and negative position of the last one seen, $8 limit.
select * from artifact a
where ledger_id = $1 and run_id = $2
  and ($3::text is null or kind = $3) and starts_with(name, $4)
  and ($5 or not exists (
      select from artifact n
      where n.ledger_id = $1 and n.run_id = $2 and n.name = a.name and n.position > a.position))
  and (name, -position) > ($6, $7)
order by name, position desc limit $8
