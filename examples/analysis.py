"""A notebook over the Parquet files of a project, with no server in between: cell by cell (`# %%`), or as a program.

    python examples/analysis.py .tachograph/parquet PROJECT_ID train/loss

The files are plain, Hive-style Parquet, `ledger=<project>/run=<run>/metrics-*.parquet` and `logs-*.parquet`: whatever
reads that reads them. They hold what is archived: the newest points of a run under way come later, or at once with
`POST /projects/{project}/query`. Small files become one by and by, and are there for ten minutes more: they are left
out here. What the columns mean is in docs/sql.md. They know ids alone; a project's is
`tachograph.Client().project("digits")["id"]`.
"""

# %% What is read of the files, and how
import sys
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq


def positions(file: Path) -> tuple[int, int]:
    """Return the first and the last ledger position of a file's points."""
    metadata = pq.read_metadata(file)
    column = metadata.schema.names.index("position")
    found = [metadata.row_group(number).column(column).statistics for number in range(metadata.num_row_groups)]
    return min(one.min for one in found), max(one.max for one in found)


def counting(run: Path) -> list[str]:
    """Return the files of a run but those whose points are in a larger one."""
    known = {file: positions(file) for file in sorted(run.glob("metrics-*.parquet"))}
    return [
        str(file)
        for file, (first, last) in known.items()
        if not any(begin <= first and last <= end and (begin, end) != (first, last) for begin, end in known.values())
    ]


# %% Where they are: in a notebook, write it here
root, project, metric = sys.argv[1:] if len(sys.argv) == 4 else (".tachograph/parquet", "PROJECT_ID", "train/loss")
files = [file for run in sorted(Path(root, f"ledger={project}").glob("run=*")) for file in counting(run)]
if not files:
    there = ", ".join(path.name.removeprefix("ledger=") for path in sorted(Path(root).glob("ledger=*")))
    sys.exit(f"nothing of project {project} is archived below {root} yet; of these there is: {there or 'none'}")

# %% DuckDB: every run's best and last value; only the row groups that hold the metric are read
points = duckdb.read_parquet(files, hive_partitioning=True)
names = [name for (name,) in duckdb.sql("select distinct metric from points order by metric").fetchall()]
if metric not in names:
    sys.exit(f"no run has {metric}; there are: {', '.join(names[:50])}")
print("run, points, best, last")
for row in duckdb.sql(
    """
    select run::varchar, count(*), min(value) filter (where isfinite(value)), arg_max(value, (step, position))
    from points where metric = $metric group by run order by run
    """,
    params={"metric": metric},
).fetchall():
    print(*row, sep=", ")

# %% Arrow, and from here pandas or Polars: `table.to_pandas()`, `polars.from_arrow(table)`
# Directly: `pandas.read_parquet(files)`, `polars.scan_parquet(files, hive_partitioning=True)`
dataset = ds.dataset(files, format="parquet", partitioning=ds.partitioning(flavor="hive"))
table = dataset.to_table(columns=["run", "step", "value"], filter=pc.field("metric") == metric)
print(f"{table.num_rows} points of {metric}, steps {pc.min(table['step'])} to {pc.max(table['step'])}")
