-- What an organisation's runs hold, or may still hold, by project and kind. $1 organisation. No kind: the runs themselves.
select d.ledger_id, null as kind, count(*) as held from demand d
where d.organisation_id = $1 and d.held <> '{}' group by d.ledger_id
union all
select d.ledger_id, h.kind, count(*) from demand d cross join lateral unnest(d.held) h(kind)
where d.organisation_id = $1 and d.held <> '{}' group by d.ledger_id, h.kind
