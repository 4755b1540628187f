-- One artifact, of whichever run. $1 organisation, $2 artifact. Zero rows: the organisation has none with this id.
select a.* from ledger.ledger l join artifact a on a.ledger_id = l.ledger_id
where l.organisation_id = $1 and a.artifact_id = $2
