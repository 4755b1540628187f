-- Files that were merged away after $1 and over $2 seconds ago, the earliest first. $3 how many. Zero rows: no more.
select path, levels_path, replaced_at from replaced_segment
where replaced_at > $1 and replaced_at < now() - make_interval(secs => $2)
order by replaced_at limit $3
