"""P3: small bodies: 10 points a request by 64 clients, against a route of the same server that does nothing.

Also against that route and the least that a durable body takes, one after the other: read, sealed and committed in one
process, with those that came meanwhile (`floors.Bodies`).

And a lone client: the median of its times, against the route that does nothing and four bare commits of a small row,
with the disk's own flush and with one that takes a millisecond longer (as P4 does). The route is `GET /healthz`, which
looks at no key and no database.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from bench import corpus
from bench.client import Client
from bench.floors import Bodies
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, rounds
from bench.p4 import FLUSHES, SLOW
from bench.storm import request, storm
from stack.system import Stack

ROUNDS: Final = 5
CLIENTS: Final = 64
REQUESTS: Final = 40
ALONE: Final = 300
METRICS: Final = 10
COMMITS: Final = 4

NOTHING: Final = "no-op route"
BARE: Final = "no-op and bare bodies"
FLOOR: Final = "no-op and 4 commits"
COMPARISONS: Final = (
    Comparison(what="10-point bodies, 64 clients", ours="64", against=NOTHING, unit="requests", goal=None),
    Comparison(what="10-point bodies, 64 clients", ours="64", against=BARE, unit="requests", goal=0.4),
    *(
        Comparison(
            what="a lone client, p50",
            ours=f"1{flush}",
            against=f"{FLOOR}{flush}",
            unit="requests",
            goal=goal,
            durations=True,
        )
        for flush, goal in (("", None), (SLOW, 1.0))
    ),
)
"""The goals' source: docs/decisions/0033."""
LOGGED: Final = "select count(*) from ledger.event where ledger_id = $1 and type = 'run.metrics_logged'"


class Small:
    """The service, one run that all clients log to, each as a source of its own, and the floors."""

    def __init__(self, stack: Stack, connection: asyncpg.Connection) -> None:
        assert stack.api_key is not None
        self._url, self._key = stack.url, stack.api_key
        self._connection = connection
        self._bodies = Bodies(connection)
        client = Client(stack.url, stack.api_key)
        self.project = client.project(f"p3-{uuid4()}")
        self._run = client.started_run(self.project)
        client.close()
        self._seq = count(1)
        self.acknowledged = 0

    def _batch(self) -> bytes:
        body = corpus.body("JSON", next(self._seq), METRICS, 0, 1)
        return request(self._url, self._key, "POST", f"/api/v1/runs/{self._run}/metrics", body)

    def _nothing(self) -> bytes:
        return request(self._url, self._key, "GET", "/healthz")

    async def open(self) -> None:
        """Create the floors' tables."""
        await self._connection.execute("create table public.bare_commit (value integer)")
        await self._bodies.open()

    async def logging(self) -> Sample:
        """Log by all clients at once."""
        self.acknowledged += CLIENTS * REQUESTS
        return await self._together(self._batch)

    async def nothing(self) -> Sample:
        """Ask for nothing by all clients at once."""
        return await self._together(self._nothing)

    async def bare(self) -> Sample:
        """Ask for nothing by all clients at once, then have as many bodies read, sealed and committed."""
        asked = await self.nothing()
        loads = [[corpus.body("JSON", n, METRICS, 0, 1) for n in range(1, REQUESTS + 1)]] * CLIENTS
        watch = Stopwatch()
        await self._bodies.ingest("application/json", loads)
        sealed = watch.sample(CLIENTS * REQUESTS)
        await self._bodies.forget()
        return Sample(asked.units, asked.seconds + sealed.seconds, asked.cpu_seconds + sealed.cpu_seconds)

    async def _together(self, make: Callable[[], bytes]) -> Sample:
        loads = [[make() for _ in range(REQUESTS)] for _ in range(CLIENTS)]
        async with storm(self._url, CLIENTS) as clients:
            watch = Stopwatch()
            await asyncio.gather(*(client.send(load) for client, load in zip(clients, loads, strict=True)))
            return watch.sample(CLIENTS * REQUESTS)

    async def alone(self) -> Sample:
        """Log by one client; a unit takes the median of its requests' times."""
        self.acknowledged += ALONE
        return await self._alone(self._batch)

    async def floor(self) -> Sample:
        """Ask for nothing by one client, and commit a row, again and again; a unit is one of these, four of those."""
        asked = await self._alone(self._nothing)
        commit = await median(partial(self._connection.execute, "insert into bare_commit values (1)"))
        return Sample(1, asked.seconds + COMMITS * commit, asked.cpu_seconds)

    async def slowly(self, once: Contestant) -> Sample:
        """Measure while each flush of the database takes a millisecond longer."""
        await self._flush(**FLUSHES[SLOW])
        try:
            return await once()
        finally:
            await self._flush(**dict.fromkeys(FLUSHES[SLOW], "default"))

    async def _flush(self, **settings: int | str) -> None:
        for name, value in settings.items():
            await self._connection.execute(f"alter system set {name} = {value}")
        await self._connection.execute("select pg_reload_conf()")

    async def _alone(self, make: Callable[[], bytes]) -> Sample:
        loads = iter([make() for _ in range(ALONE)])
        async with storm(self._url, 1) as (client,):
            watch = Stopwatch()
            seconds = await median(lambda: client.ask(next(loads)))
            return Sample(1, seconds, watch.sample(ALONE).cpu_seconds / ALONE)


async def median(once: Callable[[], Awaitable[object]]) -> float:
    """Return the median of the seconds that something takes."""
    times = []
    for _ in range(ALONE):
        began = time.perf_counter()
        await once()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and check that nothing acknowledged is missing."""
    connection = await asyncpg.connect(stack.postgres.url("postgres"))
    small = Small(stack, connection)
    await small.open()
    contestants: dict[str, Contestant] = {
        "64": small.logging,
        NOTHING: small.nothing,
        BARE: small.bare,
        "1": small.alone,
        FLOOR: small.floor,
        f"1{SLOW}": partial(small.slowly, small.alone),
        f"{FLOOR}{SLOW}": partial(small.slowly, small.floor),
    }
    try:
        measured = await rounds(contestants, ROUNDS)
        found = await connection.fetchval(LOGGED, UUID(small.project))
    finally:
        await connection.close()
    if found != small.acknowledged:
        raise Void(f"{small.acknowledged} batches were acknowledged, {found} are there")
    return [judged(comparison, measured) for comparison in COMPARISONS], [
        f"All {found:,} acknowledged batches are in the ledger; every role was on."
    ]
