-- Whether a reader that copies contents elsewhere has yet to pass a deletion. $1 ledger, $2 position of the deletion,
-- $3 whether the relay publishes (one that has never begun is behind).
select exists (select 1 from checkpoint where ledger_id = $1 and position < $2)
    or exists (select 1 from ledger.cursor where reader = 'alerter' and ledger_id = $1 and position < $2)
    or ($3 and not exists (
        select 1 from ledger.cursor where reader = 'relay' and ledger_id = $1 and position >= $2
    )) as behind
