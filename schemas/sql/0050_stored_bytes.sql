-- What counts against the quotas of stored bytes, of a project and of its organisation: artifacts, and the uploads of them
-- and of archives that are under way.
create function operation.stored_bytes(p_ledger_id uuid, p_organisation_id uuid, out project bigint, out organisation bigint)
language sql stable as $$
    select (select coalesce(sum(bytes), 0) from artifact where ledger_id = p_ledger_id)
               + (select coalesce(sum(bytes), 0) from operation.upload where ledger_id = p_ledger_id),
           (select coalesce(sum(a.bytes), 0) from ledger.ledger l join artifact a on a.ledger_id = l.ledger_id
            where l.organisation_id = p_organisation_id)
               + (select coalesce(sum(bytes), 0) from operation.upload where organisation_id = p_organisation_id)
$$;
