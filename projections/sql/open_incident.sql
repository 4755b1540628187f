-- Open an incident of kind $1 about $2 of $3 runs; where one is open, what it is about grows.
insert into operation.incident (kind, silent, watched) values ($1, $2, $3)
on conflict (kind) where closed_at is null do update
    set silent = greatest(incident.silent, excluded.silent), watched = excluded.watched
