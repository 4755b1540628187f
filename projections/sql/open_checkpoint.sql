-- Begin a projection of a ledger at nothing. $1 projection, $2 ledger. Again, it changes nothing.
insert into checkpoint (projection, ledger_id, position) values ($1, $2, 0) on conflict do nothing
