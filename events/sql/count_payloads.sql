-- How many payloads a ledger has at positions after $2 and up to $3; the first page's are any up to $3. $1 ledger.
select count(*) from ledger.payload where ledger_id = $1 and position <= $3 and ($2 = 0 or position > $2)
