"""P9: charts of 10 and of 100 runs, in a small project and in one with ten thousand times as much besides, by HTTP.

Both projects have the same 100 runs, whose curve is charted, and beside them runs with other metrics: few, or so many
that the project has 100,000 names and 10⁸ points. All is in Parquet. No range is asked for twice.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import numpy as np

from bench import corpus, curves
from bench.client import Client
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged, rounds
from bench.p2 import ARCHIVED, SUMMARISED
from stack.system import Stack

ROUNDS: Final = 9
CHARTS: Final = 3
CLIENTS: Final = 4
RUNS: Final = 100
POINTS: Final = 1_000
"""Of the charted metric, in each run."""
BODY_POINTS: Final = 20_000
METRIC: Final = "train/loss"
BUCKETS: Final = 200
DRAIN_SECONDS: Final = 600.0
PAUSE_SECONDS: Final = 0.1


class Besides(NamedTuple):
    """How many other runs a project has, with how many names of their own each, of how many points."""

    runs: int
    names: int
    points: int


SMALL: Final = Besides(1, 100, 100)
LARGE: Final = Besides(100, 1_000, 1_000)

COMPARISONS: Final = tuple(
    Comparison(
        what=f"chart of {runs} runs, large project",
        ours=f"large, {runs} runs",
        against=f"small, {runs} runs",
        unit="charts",
        goal=1.3,
        durations=True,
    )
    for runs in (10, 100)
)


def body(numbers: range, points: int) -> bytes:
    """Return a body of curves; names are counted from 0, and -1 is the one that is charted."""
    step = np.arange(points)
    series = {
        METRIC if number < 0 else f"layer_{number}/grad_norm": {
            "step": step,
            "time_us": corpus.START_US + step * corpus.STEP_US,
            "value": curves.curve(0, max(number, 0) * points % 100_000, points),
        }
        for number in numbers
    }
    return corpus.arrow({"series": series})


class Project:
    """A project with its runs, and a client that asks for their charts."""

    def __init__(self, stack: Stack, others: Besides) -> None:
        assert stack.api_key is not None
        self._clients = [Client(stack.url, stack.api_key) for _ in range(CLIENTS)]
        self._others = others
        self._ranges = self._narrower()
        self.id = self._clients[0].project(f"p9-{uuid4()}")
        self.runs: list[str] = []

    @staticmethod
    def _narrower() -> Iterator[tuple[int, int]]:
        for left_out in range(POINTS // 4):
            yield left_out, POINTS - 1 - left_out

    async def fill(self, observer: asyncpg.Connection) -> tuple[int, int]:
        """Log everything and wait until it is in Parquet; returns how many names and points there are."""
        others = self._others
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(CLIENTS) as threads:
            charted = await asyncio.gather(
                *(loop.run_in_executor(threads, self._logged, client, RUNS // CLIENTS) for client in self._clients)
            )
            rest = [
                loop.run_in_executor(threads, self._log_others, client, range(number, others.runs, CLIENTS))
                for number, client in enumerate(self._clients)
            ]
            more = await asyncio.gather(*rest)
        self.runs = [run_id for some in charted for run_id in some]
        every = [UUID(run_id) for some in (*charted, *more) for run_id in some]
        points = RUNS * POINTS + others.runs * others.names * others.points
        give_up = time.monotonic() + DRAIN_SECONDS
        for query in (ARCHIVED, SUMMARISED):
            while (found := await observer.fetchval(query, UUID(self.id), every)) != points:
                if found > points or time.monotonic() > give_up:
                    raise Void(f"{points} points were acknowledged, {found} are there")
                await asyncio.sleep(PAUSE_SECONDS)
        return others.runs * others.names + 1, points

    def _logged(self, client: Client, runs: int) -> list[str]:
        return [self._run(client, [body(range(-1, 0), POINTS)]) for _ in range(runs)]

    def _log_others(self, client: Client, numbers: range) -> list[str]:
        _, names, points = self._others
        at_once = BODY_POINTS // points
        return [
            self._run(
                client,
                (
                    body(range(first, min(first + at_once, (number + 1) * names)), points)
                    for first in range(number * names, (number + 1) * names, at_once)
                ),
            )
            for number in numbers
        ]

    def _run(self, client: Client, bodies: Iterable[bytes]) -> str:
        run_id = client.started_run(self.id)
        for seq, content in enumerate(bodies, 1):
            client.call("POST", f"/runs/{run_id}/metrics?epoch=1&seq={seq}", content, corpus.MEDIA["Arrow"][0])
        client.finish(run_id)
        return run_id

    def _ask(self, runs: int) -> None:
        low, high = next(self._ranges)
        ids = ",".join(self.runs[:runs])
        query = f"metric={METRIC}&runs={ids}&buckets={BUCKETS}&from={low}&to={high}&format=raw"
        self._clients[0].call("GET", f"/projects/{self.id}/chart?{query}")

    async def ten(self) -> Sample:
        """Ask for charts of 10 runs."""
        return await self._measured(10)

    async def hundred(self) -> Sample:
        """Ask for charts of 100 runs."""
        return await self._measured(100)

    async def _measured(self, runs: int) -> Sample:
        watch = Stopwatch()
        for _ in range(CHARTS):
            await asyncio.to_thread(self._ask, runs)
        return watch.sample(CHARTS)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Fill both projects, then measure them in turn."""
    observer = await asyncpg.connect(stack.postgres.url("postgres"))
    small, large = Project(stack, SMALL), Project(stack, LARGE)
    sizes = [await one.fill(observer) for one in (small, large)]
    await observer.execute("vacuum analyze", timeout=120)
    await observer.close()
    contestants = {
        "small, 10 runs": small.ten,
        "large, 10 runs": large.ten,
        "small, 100 runs": small.hundred,
        "large, 100 runs": large.hundred,
    }
    measured = await rounds(contestants, ROUNDS)
    small.close()
    large.close()
    said = [f"{names:,} names and {points:,} points" for names, points in sizes]
    return [judged(one, measured) for one in COMPARISONS], [
        f"The small project has {said[0]}, the large one {said[1]}; each charted curve has {POINTS:,} points.",
        f"A chart is of one metric in {BUCKETS} buckets, as raw columns.",
    ]
