"""P8: a chart of a million points in 1,000 buckets by HTTP, against the same aggregate in bare DuckDB.

The points are in Parquet, written by the archiver. Nothing is asked for twice, and neither side keeps what it has
read. Cold: over time, for which there are no levels; DuckDB is told where the range begins and ends, ours finds out,
and both must give the same answer. From levels: the whole curve over steps, in about as many buckets; what the answer
says is compared with the points themselves.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import duckdb
import msgspec
import numpy as np

from bench import corpus
from bench.client import Client
from bench.curves import curve
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
    Comparison(
        what="chart of 1 M points, from levels",
        ours="levels",
        against="DuckDB",
        unit="charts",
        goal=0.4,
        durations=True,
    ),
)

ARCHIVED: Final = """
select coalesce(sum(rows), 0) as rows, coalesce(array_agg(path), '{}') as paths
from projection.segment where ledger_id = $1 and run_id = $2 and kind = 'metrics'
"""
AGGREGATE: Final = """
select max(time_us) as x, min(value) as min, max(value) as max, arg_min(value, step) as first,
       arg_max(value, step) as last, count(*) as count, count(*) filter (isnan(value)) as nan,
       count(*) filter (value = 'inf'::double) as posinf, count(*) filter (value = '-inf'::double) as neginf
from read_parquet($files)
where metric = $metric and time_us between $low and $high
group by (time_us - $low) * $buckets // ($high - $low + 1)
order by x
"""
COMPARED: Final = ("x", "min", "max", "first", "last", "count", "nan", "posinf", "neginf")

Answer = dict[str, Any]


def ranges() -> Iterator[tuple[int, int]]:
    """Yield the time of the whole, then ever so little less of it."""
    for left_out in range(POINTS // 2):
        yield _time_us(left_out), _time_us(POINTS - 1 - left_out)


def _time_us(step: int) -> int:
    return corpus.START_US + step * corpus.STEP_US


class Ours:
    """A finished run, and a client that asks for its chart."""

    def __init__(self, stack: Stack) -> None:
        assert stack.api_key is not None
        self._client = Client(stack.url, stack.api_key)
        self._ranges = ranges()
        self._buckets = iter(range(BUCKETS, 0, -1))
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
        return self._ask(f"metric={METRIC}&x=time&from={low}&to={high}&buckets={BUCKETS}")

    def whole(self) -> Answer:
        """Ask for the chart of all steps, in a number of buckets that was not asked for before."""
        return self._ask(f"metric={METRIC}&buckets={next(self._buckets)}")

    def _ask(self, query: str) -> Answer:
        answer = msgspec.json.decode(self._client.call("GET", f"/runs/{self.run_id}/chart?{query}"))
        (series,) = answer["series"]
        return dict(series)

    async def measure(self, chart: Callable[[], Answer]) -> Sample:
        """Ask for some charts."""
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(chart)
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


def check_levels(answer: Answer) -> int:
    """Return how many buckets an answer has. Raises `Void` unless they say of their points what those say."""
    value = np.concatenate([curve(0, first, POINTS_PER_BODY) for first in range(0, POINTS, POINTS_PER_BODY)])
    first, last = np.asarray(answer["x_first"]), np.asarray(answer["x"])
    if first[0] != 0 or last[-1] != POINTS - 1 or not np.array_equal(first[1:], last[:-1] + 1):
        raise Void("the buckets of the chart from levels leave points out, or count them twice")
    expected = {
        "min": np.minimum.reduceat(value, first),
        "max": np.maximum.reduceat(value, first),
        "first": value[first],
        "last": value[last],
        "count": last - first + 1,
    }
    for name, column in expected.items():
        if not np.array_equal(np.asarray(answer[name]), column):
            raise Void(f"the {name} of the chart from levels is not that of the points")
    return len(first)


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
    buckets = check_levels(await asyncio.to_thread(ours.whole))
    everybody = {
        "chart": partial(ours.measure, ours.chart),
        "levels": partial(ours.measure, ours.whole),
        "DuckDB": floor.measure,
    }
    measured = await rounds(everybody, ROUNDS)
    ours.close()
    return [judged(comparison, measured) for comparison in COMPARISONS], [
        f"The run's {POINTS:,} points are in {len(files)} Parquet files; both gave the same {BUCKETS:,} buckets.",
        f"From levels: {buckets:,} buckets where {BUCKETS:,} were asked for, each as all of its points say.",
        "A closed tile asked for again and MLflow's chart endpoint are not measured yet.",
    ]
