-- An organisation's account: what it was granted and the rate card in force, inline like the rest of its ledger.
create table projection.account (
    account_id      uuid primary key,
    organisation_id uuid not null unique,
    version         integer not null,
    state           bytea not null
);
