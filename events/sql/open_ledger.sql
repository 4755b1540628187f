-- Open a ledger with an empty head. $1 ledger, $2 organisation, $3 kind. Opening it again changes nothing.
with opened as (
    insert into ledger.ledger (ledger_id, organisation_id, kind) values ($1, $2, $3) on conflict do nothing
    returning ledger_id
)
insert into ledger.head (ledger_id) select ledger_id from opened
