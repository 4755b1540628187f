-- The first of the payloads that `count_payloads` counts to which no lifecycle event belongs. $1 ledger, $2 after
-- position, $3 up to position. Zero rows: none.
select p.position from ledger.payload p
where p.ledger_id = $1 and p.position <= $3 and ($2 = 0 or p.position > $2) and not exists (
    select from ledger.event e where e.ledger_id = $1 and e.position = p.position and e.version is not null
)
order by p.position limit 1
