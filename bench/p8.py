"""P8: a chart of a million points in 1,000 buckets by HTTP, against the same aggregate in bare DuckDB; one of 100,000
points against MLflow's.

The points are in Parquet, written by the archiver. Nothing is asked for twice, and neither side keeps what it has
read. Cold: over time, for which there are no levels; DuckDB is told where the range begins and ends, ours finds out,
and both must give the same answer. From levels: the whole curve over steps, in about as many buckets; what the answer
says is compared with the points themselves. Again: with the entity tag of a chart that was asked for before. MLflow is
asked for as many points as ours has buckets, by steps.
"""

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import duckdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from bench import corpus
from bench.client import Client
from bench.curves import curve, names
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, rounds
from bench.http import Connection
from bench.mlflow import DATABASE, Mlflow, mlflow
from stack.postgres import Postgres
from stack.system import Stack

ROUNDS: Final = 15
CHARTS: Final = 4
KNOWN_CHARTS: Final = 50
NOT_MODIFIED: Final = 304
POINTS: Final = 1_000_000
PEER_POINTS: Final = 100_000
POINTS_PER_BODY: Final = 20_000
BUCKETS: Final = 1_000
ARCHIVE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05

METRIC: Final = names(1)[0]
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
    Comparison(what="the same chart again", ours="again", against="DuckDB", unit="charts", goal=0.1, durations=True),
    Comparison(what="chart of 100,000 points", ours="smaller", against="MLflow", unit="charts", goal=15),
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


def ranges(points: int) -> Iterator[tuple[int, int]]:
    """Yield the steps of the whole, then ever so little less of it."""
    for left_out in range(points // 2):
        yield left_out, points - 1 - left_out


def _time_us(step: int) -> int:
    return corpus.START_US + step * corpus.STEP_US


class Ours:
    """A finished run of so many points, and a client that asks for its charts."""

    def __init__(self, stack: Stack, points: int) -> None:
        assert stack.api_key is not None
        self._stack = stack
        self._client = Client(stack.url, stack.api_key)
        self._points = points
        self._ranges = ranges(points)
        self._buckets = iter(range(BUCKETS, 0, -1))
        self.project = UUID(self._client.project(f"p8-{uuid4()}"))
        self.run_id = UUID(self._client.started_run(str(self.project)))

    def log(self) -> None:
        """Log the points and end the run."""
        for seq, first in enumerate(range(0, self._points, POINTS_PER_BODY), 1):
            body = corpus.body("MessagePack", seq, 1, first, POINTS_PER_BODY)
            self._client.call("POST", f"/runs/{self.run_id}/metrics", body, corpus.MEDIA["MessagePack"][0])
        self._client.finish(str(self.run_id))

    def chart(self) -> Answer:
        """Ask for the chart of a time that was not asked for before."""
        low, high = map(_time_us, next(self._ranges))
        return self._ask(f"metric={METRIC}&x=time&from={low}&to={high}&buckets={BUCKETS}")

    def steps(self) -> Answer:
        """Ask for the chart of steps that were not asked for before."""
        low, high = next(self._ranges)
        return self._ask(f"metric={METRIC}&from={low}&to={high}&buckets={BUCKETS}")

    def whole(self) -> Answer:
        """Ask for the chart of all steps, in a number of buckets that was not asked for before."""
        return self._ask(f"metric={METRIC}&buckets={next(self._buckets)}")

    def _ask(self, query: str) -> Answer:
        answer = msgspec.json.decode(self._client.call("GET", f"/runs/{self.run_id}/chart?{query}"))
        (series,) = answer["series"]
        return dict(series)

    def known(self) -> "Known":
        """Return whoever has asked for a chart of the whole before."""
        url = f"{self._stack.url}/api/v1/runs/{self.run_id}/chart?metric={METRIC}&buckets={BUCKETS}"
        headers = {"Authorization": f"Bearer {self._stack.api_key}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return Known(url, headers | {"If-None-Match": answer.headers["ETag"]})

    async def measure(self, chart: Callable[[], Answer]) -> Sample:
        """Ask for some charts."""
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(chart)
        return watch.sample(CHARTS)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Known:
    """Asks for one chart again and again."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        address = urlsplit(url)
        self._connection = Connection(address.hostname or "", address.port or 80, headers)
        self._path = f"{address.path}?{address.query}"

    def _again(self) -> None:
        status, content = self._connection.exchange("GET", self._path)
        if status != NOT_MODIFIED or content:
            raise Void(f"a chart that is known was answered with {status}")

    async def measure(self) -> Sample:
        """Ask some times."""
        watch = Stopwatch()
        for _ in range(KNOWN_CHARTS):
            await asyncio.to_thread(self._again)
        return watch.sample(KNOWN_CHARTS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Theirs:
    """MLflow with a run of as many points."""

    def __init__(self, peer: Mlflow) -> None:
        self._client = peer.client()
        self._run_id = ""
        self._ranges = ranges(PEER_POINTS)

    async def fill(self, postgres: Postgres) -> None:
        """Copy the points into its tables, as it would have written them."""
        experiment = self._client.ask("experiments/create", {"name": f"p8-{uuid4()}"})["experiment_id"]
        self._run_id = self._client.ask("runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
        rows = [
            (METRIC, value, _time_us(step) // 1_000, step, False, self._run_id)
            for step, value in enumerate(_values(PEER_POINTS).tolist())
        ]
        owner = await asyncpg.connect(postgres.url("postgres", DATABASE))
        columns = ["key", "value", "timestamp", "step", "is_nan", "run_uuid"]
        await owner.copy_records_to_table("metrics", records=rows, columns=columns, timeout=120)
        await owner.copy_records_to_table("latest_metrics", records=rows[-1:], columns=columns)
        await owner.execute("vacuum analyze", timeout=120)
        await owner.close()

    def chart(self) -> None:
        """Ask for the chart of steps that were not asked for before. Raises `Void` where the points are missing."""
        low, high = next(self._ranges)
        query = f"run_ids={self._run_id}&metric_key={METRIC}&start_step={low}&end_step={high}&max_results={BUCKETS}"
        if len(self._client.get(f"metrics/get-history-bulk-interval?{query}")["metrics"]) < BUCKETS // 2:
            raise Void("MLflow does not have its points")

    async def measure(self) -> Sample:
        """Ask for a chart."""
        watch = Stopwatch()
        await asyncio.to_thread(self.chart)
        return watch.sample(1)


class Floor:
    """DuckDB over the same files."""

    def __init__(self, files: Sequence[str]) -> None:
        self._connection = duckdb.connect(config={"enable_external_file_cache": False})
        self._files = list(files)
        self._ranges = ranges(POINTS)

    def aggregate(self) -> Answer:
        """Aggregate a time that was not asked for before."""
        low, high = map(_time_us, next(self._ranges))
        given = {"files": self._files, "metric": METRIC, "low": low, "high": high, "buckets": BUCKETS}
        return dict(self._connection.cursor().execute(AGGREGATE, given).fetchnumpy())

    async def measure(self) -> Sample:
        """Aggregate some ranges."""
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(self.aggregate)
        return watch.sample(CHARTS)


async def archived(stack: Stack, ours: Ours, points: int) -> list[str]:
    """Wait until all points are in Parquet, and return the files. Raises `Void` if they do not get there."""
    observer = await asyncpg.connect(stack.postgres.url("postgres"))
    give_up = time.monotonic() + ARCHIVE_SECONDS
    while True:
        row = await observer.fetchrow(ARCHIVED, ours.project, ours.run_id)
        if row["rows"] == points:
            await observer.close()
            return [str(stack.home.parquet / path) for path in row["paths"]]
        if row["rows"] > points or time.monotonic() > give_up:
            raise Void(f"{points} points were acknowledged, {row['rows']} are in Parquet")
        await asyncio.sleep(PAUSE_SECONDS)


def check_levels(answer: Answer) -> int:
    """Return how many buckets an answer has. Raises `Void` unless they say of their points what those say."""
    value = _values(POINTS)
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


def _values(points: int) -> NDArray[np.float64]:
    return np.concatenate([curve(0, first, POINTS_PER_BODY) for first in range(0, points, POINTS_PER_BODY)])


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, after checking that both give the same answer."""
    ours, smaller = Ours(stack, POINTS), Ours(stack, PEER_POINTS)
    await asyncio.to_thread(smaller.log)
    await archived(stack, smaller, PEER_POINTS)
    await asyncio.to_thread(ours.log)
    files = await archived(stack, ours, POINTS)
    floor = Floor(files)
    chart, same = await asyncio.to_thread(ours.chart), await asyncio.to_thread(floor.aggregate)
    for column in COMPARED:
        if not np.array_equal(np.asarray(chart[column]), same[column]):
            raise Void(f"the chart's {column} is not what DuckDB says")
    buckets = check_levels(await asyncio.to_thread(ours.whole))
    known = ours.known()
    everybody: dict[str, Contestant] = {
        "chart": partial(ours.measure, ours.chart),
        "levels": partial(ours.measure, ours.whole),
        "again": known.measure,
        "DuckDB": floor.measure,
    }
    measured = await rounds(everybody, ROUNDS)
    async with mlflow(stack.postgres) as peer:
        theirs = Theirs(peer)
        await theirs.fill(stack.postgres)
        everybody = {"smaller": partial(smaller.measure, smaller.steps), "MLflow": theirs.measure}
        against = await rounds(everybody, ROUNDS)
    for each in (ours, smaller, known):
        each.close()
    return [judged(one, against if one.against == "MLflow" else measured) for one in COMPARISONS], [
        f"The run's {POINTS:,} points are in {len(files)} Parquet files; both gave the same {BUCKETS:,} buckets.",
        f"From levels: {buckets:,} buckets where {BUCKETS:,} were asked for, each as all of its points say.",
        f"MLflow: `metrics/get-history-bulk-interval` of {PEER_POINTS:,} points, {BUCKETS:,} of them answered.",
    ]
