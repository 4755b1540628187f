-- What a ledger's own row says of whose it is, and of what kind, where the rows of its project or organisation, which have just
-- been found right, say otherwise. $1 ledger. Zero rows: nothing differs.
select l.organisation_id, l.kind, d.owner, d.due
from ledger.ledger l
cross join lateral (
    select p.organisation_id as owner, 'project' as due from projection.project p where p.project_id = l.ledger_id
    union all
    select o.organisation_id, 'organisation' from projection.organisation o where o.organisation_id = l.ledger_id
) d
where l.ledger_id = $1 and (l.organisation_id, l.kind) is distinct from (d.owner, d.due)
limit 1
