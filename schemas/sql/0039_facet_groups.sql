-- Counts by a value of a facet, archived runs left out, from one index. Equal entries share their space in it, so that
-- counting 100,000 runs by a text reads a hundred pages; numbers differ too much for that, and have theirs already.
alter table projection.run_facet add column archived boolean not null default false;
insert into projection.run_facet (ledger_id, run_id, key, ordinal, text)
select ledger_id, run_id, 'archived', 0, 'true' from projection.run where archived and status <> 'deleted';
update projection.run_facet f set archived = true
from projection.run r
where r.ledger_id = f.ledger_id and r.run_id = f.run_id and r.archived;

create index run_facet_group on projection.run_facet (ledger_id, key, text, archived, ordinal) where text is not null;
drop index projection.run_facet_number;
create index run_facet_number on projection.run_facet (ledger_id, key, number, run_id) include (ordinal, archived)
    where number is not null;
