-- What single runs cost, newest first, as the states to go on from. $1 organisation, $2 ledger or NULL, $3 workflow or
-- NULL, $4 only runs with an id below this one, $5 how many. Zero rows: no more.
select c.ledger_id, c.run_id, c.workflow_id, r.name, c.status, c.accruing, c.state
from ledger.ledger l
join run_credit c on c.ledger_id = l.ledger_id
left join run r on r.ledger_id = c.ledger_id and r.run_id = c.run_id
where l.organisation_id = $1 and ($2::uuid is null or l.ledger_id = $2) and ($3::uuid is null or c.workflow_id = $3)
  and c.run_id < $4
order by c.run_id desc
limit $5
