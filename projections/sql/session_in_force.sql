-- The key that a session ($1, its SHA-256) stands for, while both are in force; it ends with whichever ends first.
select k.*, least(k.expires_at, s.expires_at) as until
from operation.session s join api_key k using (key_id)
where s.sha256 = $1 and s.expires_at > clock_timestamp()
  and k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())
