-- What `ledger.append` takes. Databases of before have both types.
do $$ begin
    create type ledger.proposal as (
        stream uuid, expected integer, epoch integer, gate smallint, key bytea, event_id uuid, source text, seq bigint,
        events integer
    );
    create type ledger.proposed_event as (
        event_id uuid, stream uuid, version integer, type text, schema_version smallint, actor text, cause text,
        correlation_id uuid, causation_id uuid, epoch integer, source text, seq bigint, part smallint,
        occurred_at timestamptz, commitment bytea, body bytea, salt bytea, request bytea, ciphertext bytea
    );
exception when duplicate_object then null;
end $$;

-- The same under another name, by which a driver sends bytes that are one already (events/wire.py).
create domain ledger.sealed_event as ledger.proposed_event;
