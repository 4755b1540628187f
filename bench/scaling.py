"""How cost grows: points in and charts, from 10⁴ to 10⁸ points of a run, and from 1 to 10,000 runs of a project.

Each size gets a project of its own. What a point costs counts until it is published, summarised and in Parquet; charts
are of a metric's whole range or a little less, none asked for twice. All is compared with the smallest size.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from bench import corpus, curves
from bench.client import Client
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged
from bench.p2 import ARCHIVED, SUMMARISED
from stack.system import Stack

POINTS: Final = tuple(10**power for power in range(4, 9))
RUNS: Final = (1, 10, 100, 1_000, 10_000)
METRICS: Final = 10
BODY_POINTS: Final = 20_000
RUN_POINTS: Final = 1_000
CLIENTS: Final = 4
CHARTS: Final = 16
CHARTED_RUNS: Final = 10
BUCKETS: Final = 1_000
MEDIA: Final = "MessagePack"
DRAIN_SECONDS: Final = 600.0
PAUSE_SECONDS: Final = 0.05


class Ours:
    """The service with its roles, and some clients."""

    def __init__(self, stack: Stack, observer: asyncpg.Connection) -> None:
        assert stack.api_key is not None
        self._observer = observer
        self._clients = [Client(stack.url, stack.api_key) for _ in range(CLIENTS)]
        self._threads = ThreadPoolExecutor(CLIENTS)

    async def ingest(self, runs: int, points: int) -> tuple[Sample, list[str]]:
        """Log so many points to each of so many runs of a new project; return what that took, and the runs."""
        project = await asyncio.to_thread(self._clients[0].project, f"scaling-{uuid4()}")
        loop = asyncio.get_running_loop()
        watch = Stopwatch()
        shares = [range(number, runs, CLIENTS) for number in range(CLIENTS)]
        logging = [
            loop.run_in_executor(self._threads, self._log, client, project, len(share), points)
            for client, share in zip(self._clients, shares, strict=True)
        ]
        run_ids = [run_id for share in await asyncio.gather(*logging) for run_id in share]
        await self._drain(UUID(project), [UUID(run_id) for run_id in run_ids], runs * points)
        return watch.sample(runs * points), run_ids

    def _log(self, client: Client, project: str, runs: int, points: int) -> list[str]:
        run_ids = []
        for _ in range(runs):
            run_id = client.started_run(project)
            steps = min(BODY_POINTS, points) // METRICS
            for seq, first in enumerate(range(0, points // METRICS, steps), 1):
                body = corpus.body(MEDIA, seq, METRICS, first, steps)
                client.call("POST", f"/runs/{run_id}/metrics", body, corpus.MEDIA[MEDIA][0])
                curves.curve.cache_clear()
            client.finish(run_id)
            run_ids.append(run_id)
        return run_ids

    async def _drain(self, project: UUID, run_ids: Sequence[UUID], points: int) -> None:
        give_up = time.monotonic() + DRAIN_SECONDS
        for query in (ARCHIVED, SUMMARISED):
            while (found := await self._observer.fetchval(query, project, run_ids)) != points:
                if found > points or time.monotonic() > give_up:
                    raise Void(f"{points} points were acknowledged, {found} are there")
                await asyncio.sleep(PAUSE_SECONDS)

    async def charts(self, run_ids: Sequence[str], steps: int) -> Sample:
        """Ask for charts of a metric, of one run after the other."""
        watch = Stopwatch()
        await asyncio.to_thread(self._ask, run_ids, steps)
        return watch.sample(CHARTS)

    def _ask(self, run_ids: Sequence[str], steps: int) -> None:
        names = curves.names(METRICS)
        for number in range(CHARTS):
            metric = names[number % METRICS]
            query = f"metric={metric}&from={number}&to={steps - 1 - number}&buckets={BUCKETS}"
            self._clients[0].call("GET", f"/runs/{run_ids[number % len(run_ids)]}/chart?{query}")

    def close(self) -> None:
        """End the clients."""
        self._threads.shutdown()
        for client in self._clients:
            client.close()


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure each size once, the smallest first."""
    observer = await asyncpg.connect(stack.postgres.url("postgres"))
    ours = Ours(stack, observer)
    sizes = {f"{points:,} points": (1, points) for points in POINTS}
    sizes |= {f"{runs:,} runs of {RUN_POINTS:,} points": (runs, RUN_POINTS) for runs in RUNS}
    measured: dict[str, Sample] = {}
    try:
        await ours.ingest(1, POINTS[0])  # for warmth
        for name, (runs, points) in sizes.items():
            measured[f"in, {name}"], run_ids = await ours.ingest(runs, points)
            measured[f"chart, {name}"] = await ours.charts(run_ids[:CHARTED_RUNS], points // METRICS)
    finally:
        ours.close()
        await observer.close()
    names = list(sizes)
    results = [
        judged(
            Comparison(
                what=f"{kind}, {name}",
                ours=f"{kind}, {name}",
                against=f"{kind}, {smallest}",
                unit={"in": "points", "chart": "charts"}[kind],
                goal=None,
                durations=True,
            ),
            [measured],
        )
        for kind in ("in", "chart")
        for smallest, larger in ((names[0], names[1 : len(POINTS)]), (names[len(POINTS)], names[len(POINTS) + 1 :]))
        for name in larger
    ]
    return results, [
        (
            f"A run's points are {METRICS} metrics; a chart is of one of them, in at most {BUCKETS:,} buckets, "
            f"of up to {CHARTED_RUNS} runs in turn. Ratios are of seconds a point and a chart; lower is better."
        )
    ]
