"""P8: a chart of a million points in 1,000 buckets by HTTP, against the same aggregate in bare DuckDB.

The points are in Parquet, written by the archiver. No range is asked for twice, and neither side keeps what it has
read. DuckDB is told where the range begins and ends; ours finds out. Both must give the same answer.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import duckdb
import msgspec
import numpy as np

from bench import corpus
from bench.client import Client
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged, rounds
from stack.system import Stack

ROUNDS: Final = 15
CHARTS: Final = 4
POINTS: Final = 1_000_000
POINTS_PER_BODY: Final = 20_000
BUCKETS: Final = 1_000
ARCHIVE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05

METRIC: Final = corpus.names(1)[0]
COMPARISONS: Final = (
    Comparison(
        what="chart of 1 M points, cold", ours="chart", against="DuckDB", unit="charts", goal=1.4, durations=True
    ),
)

ARCHIVED: Final = """
select coalesce(sum(rows), 0) as rows, coalesce(array_agg(path), '{}') as paths
from projection.segment where ledger_id = $1 and run_id = $2 and kind = 'metrics'
"""
AGGREGATE: Final = """
select max(step) as x, min(value) as min, max(value) as max, arg_min(value, step) as first,
       arg_max(value, step) as last, count(*) as count, count(*) filter (isnan(value)) as nan,
       count(*) filter (value = 'inf'::double) as posinf, count(*) filter (value = '-inf'::double) as neginf
from read_parquet($files)
where metric = $metric and step between $low and $high
group by (step - $low) * $buckets // ($high - $low + 1)
order by x
"""
COMPARED: Final = ("x", "min", "max", "first", "last", "count", "nan", "posinf", "neginf")

Answer = dict[str, Any]


def ranges() -> Iterator[tuple[int, int]]:
    """Yield the whole, then ever so little less of it."""
    for left_out in range(POINTS // 2):
        yield left_out, POINTS - 1 - left_out


class Ours:
    """A finished run, and a client that asks for its chart."""

    def __init__(self, stack: Stack) -> None:
        assert stack.api_key is not None
        self._client = Client(stack.url, stack.api_key)
        self._ranges = ranges()
        self.project = UUID(self._client.project(f"p8-{uuid4()}"))
        self.run_id = UUID(self._client.started_run(str(self.project)))

    def log(self) -> None:
        """Log the points and end the run."""
        for seq, first in enumerate(range(0, POINTS, POINTS_PER_BODY), 1):
            body = corpus.body("MessagePack", seq, 1, first, POINTS_PER_BODY)
            self._client.call("POST", f"/runs/{self.run_id}/metrics", body, corpus.MEDIA["MessagePack"][0])
        self._client.finish(str(self.run_id))

    def chart(self) -> Answer:
        """Ask for the chart of a range that was not asked for before."""
        low, high = next(self._ranges)
        query = f"metric={METRIC}&from={low}&to={high}&buckets={BUCKETS}"
        answer = msgspec.json.decode(self._client.call("GET", f"/runs/{self.run_id}/chart?{query}"))
        (series,) = answer["series"]
        return dict(series)

    async def measure(self) -> Sample:
        """Ask for some charts."""
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(self.chart)
        return watch.sample(CHARTS)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Floor:
    """DuckDB over the same files."""

    def __init__(self, files: Sequence[str]) -> None:
        self._connection = duckdb.connect(config={"enable_external_file_cache": False})
        self._files = list(files)
        self._ranges = ranges()

    def aggregate(self) -> Answer:
        """Aggregate a range that was not asked for before."""
        low, high = next(self._ranges)
        given = {"files": self._files, "metric": METRIC, "low": low, "high": high, "buckets": BUCKETS}
        return dict(self._connection.cursor().execute(AGGREGATE, given).fetchnumpy())

    async def measure(self) -> Sample:
        """Aggregate some ranges."""
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(self.aggregate)
        return watch.sample(CHARTS)


async def archived(stack: Stack, ours: Ours) -> list[str]:
    """Wait until all points are in Parquet, and return the files. Raises `Void` if they do not get there."""
    observer = await asyncpg.connect(stack.postgres.url("postgres"))
    give_up = time.monotonic() + ARCHIVE_SECONDS
    while True:
        row = await observer.fetchrow(ARCHIVED, ours.project, ours.run_id)
        if row["rows"] == POINTS:
            await observer.close()
            return [str(stack.home.parquet / path) for path in row["paths"]]
        if row["rows"] > POINTS or time.monotonic() > give_up:
            raise Void(f"{POINTS} points were acknowledged, {row['rows']} are in Parquet")
        await asyncio.sleep(PAUSE_SECONDS)


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, after checking that both give the same answer."""
    ours = Ours(stack)
    await asyncio.to_thread(ours.log)
    files = await archived(stack, ours)
    floor = Floor(files)
    chart, same = await asyncio.to_thread(ours.chart), await asyncio.to_thread(floor.aggregate)
    for column in COMPARED:
        if not np.array_equal(np.asarray(chart[column]), same[column]):
            raise Void(f"the chart's {column} is not what DuckDB says")
    measured = await rounds({"chart": ours.measure, "DuckDB": floor.measure}, ROUNDS)
    ours.close()
    return [judged(comparison, measured) for comparison in COMPARISONS], [
        f"The run's {POINTS:,} points are in {len(files)} Parquet files; both gave the same {BUCKETS:,} buckets.",
        "Pre-aggregated levels, a closed tile asked for again and MLflow's chart endpoint are not measured yet.",
    ]
