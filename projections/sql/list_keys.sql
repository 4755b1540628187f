-- The keys of an organisation ($1), newest first, after one ($2, $3), at most $4.
select k.*, u.used_at
from api_key k left join operation.key_use u using (key_id)
where k.organisation_id = $1 and (k.issued_at, k.key_id) < ($2, $3)
order by k.issued_at desc, k.key_id desc
limit $4
