"""P2: points in by HTTP, durable, with every role on, against COPY of one row a point and against bare bodies.

Bare bodies are the same ones, of as many clients, read, sealed and committed by one process (`floors.Bodies`).

Four clients send bodies of 1,000 points, each the next when the last one was answered. The load's time is that of the
clients; the runs then end, so that what the roles still have to do (publish, summarise, write Parquet) is all done when
the drain is. COPY gets the same points as text, four connections, a commit every 1,000 points. Both are given ready
bytes, so that neither pays for making them.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Final
from uuid import UUID, uuid4

import asyncpg
import msgspec

from bench import corpus
from bench.client import Client
from bench.floors import Bodies
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, rounds
from bench.mlflow import Mlflow, MlflowClient, mlflow
from bench.storm import request, storm
from stack.system import Stack

ROUNDS: Final = 5
CLIENTS: Final = 4
BODIES: Final = 250
METRICS: Final = 10
STEPS: Final = 100
POINTS: Final = CLIENTS * BODIES * METRICS * STEPS
DRAIN_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.02

COPY: Final = "COPY"
BARE: Final = "bare "
"""What the name of a floor begins with that gets the same bodies."""
PEER: Final = "MLflow log-batch"
COMPARISONS: Final = (
    *(
        Comparison(what=f"HTTP ingest, {media}", ours=media, against=COPY, unit="points", goal=None)
        for media in corpus.MEDIA
    ),
    *(
        Comparison(what=f"HTTP ingest, {media}", ours=media, against=BARE + media, unit="points", goal=0.4)
        for media in corpus.MEDIA
    ),
    *(
        Comparison(what=f"{BARE}{media}", ours=BARE + media, against=COPY, unit="points", goal=None)
        for media in corpus.MEDIA
    ),
    Comparison(what="HTTP ingest, JSON", ours="JSON", against=PEER, unit="points", goal=60),
    Comparison(what="HTTP ingest, Arrow", ours="Arrow", against=PEER, unit="points", goal=100),
)
"""The goals' source: docs/decisions/0033."""
PEER_SECONDS: Final = 3.0
PEER_BODIES: Final = 40

DRAINED: Final = """
select coalesce(min(c.position), 0) >= $2 and count(*) = 4 from (
    select position from ledger.cursor where ledger_id = $1 and reader in ('relay', 'archiver')
    union all
    select position from projection.checkpoint where ledger_id = $1 and projection in ('credits', 'metrics')
) c
"""
ARCHIVED: Final = "select coalesce(sum(rows), 0) from projection.segment where ledger_id = $1 and run_id = any($2)"
SUMMARISED: Final = (
    "select coalesce(sum(count), 0) from projection.metric_summary where ledger_id = $1 and run_id = any($2)"
)


class Ours:
    """The service with its roles, and four clients."""

    def __init__(self, stack: Stack, observer: asyncpg.Connection) -> None:
        assert stack.api_key is not None
        self._stack = stack
        self._observer = observer
        self._client = Client(stack.url, stack.api_key)
        self._project = self._client.project(f"p2-{uuid4()}")
        self.drains: list[float] = []

    async def ingest(self, media: str, bodies: Sequence[bytes]) -> Sample:
        """Load new runs, end them, and wait until nothing is left to do."""
        runs = [self._client.started_run(self._project) for _ in range(CLIENTS)]
        loads = [self._requests(run_id, corpus.MEDIA[media][0], bodies) for run_id in runs]
        async with storm(self._stack.url, CLIENTS) as clients:
            watch = Stopwatch()
            sending = [client.send(load) for client, load in zip(clients, loads, strict=True)]
            last = [msgspec.json.decode(answer) for answer in await asyncio.gather(*sending)]
            seconds = watch.seconds
        for run_id in runs:
            self._client.finish(run_id)
        await self._drain(max(answer["position"] for answer in last))
        self.drains.append((watch.seconds - seconds) / seconds)
        sample = watch.sample(POINTS, seconds)
        await self._check([UUID(run_id) for run_id in runs])
        return sample

    def _requests(self, run_id: str, media_type: str, bodies: Sequence[bytes]) -> list[bytes]:
        """Return a client's requests; a table's key stands in the query."""
        assert self._stack.api_key is not None
        table = media_type == corpus.MEDIA["Arrow"][0]
        return [
            request(
                self._stack.url,
                self._stack.api_key,
                "POST",
                f"/api/v1/runs/{run_id}/metrics" + (f"?epoch=1&seq={seq}" if table else ""),
                body,
                media_type,
            )
            for seq, body in enumerate(bodies, 1)
        ]

    async def _drain(self, position: int) -> None:
        give_up = time.monotonic() + DRAIN_SECONDS
        while not await self._observer.fetchval(DRAINED, UUID(self._project), position):
            if time.monotonic() > give_up:
                raise Void(f"the roles were not done within {DRAIN_SECONDS:g} s")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _check(self, runs: Sequence[UUID]) -> None:
        for query in (ARCHIVED, SUMMARISED):
            found = await self._observer.fetchval(query, UUID(self._project), runs)
            if found != POINTS:
                raise Void(f"{POINTS} points were acknowledged, {found} are there")

    def close(self) -> None:
        """End the client."""
        self._client.close()


class Floor:
    """COPY into a plain table."""

    def __init__(self, connections: Sequence[asyncpg.Connection], parts: Sequence[bytes]) -> None:
        self._connections = connections
        self._parts = parts

    async def open(self) -> None:
        """Create the table."""
        await self._connections[0].execute(
            "create table public.bare_point (run uuid, metric text, step bigint, time_us bigint, value float8)"
        )

    async def copy(self) -> Sample:
        """Write the same points."""
        watch = Stopwatch()
        await asyncio.gather(*(self._write(connection) for connection in self._connections))
        sample = watch.sample(POINTS)
        found = await self._connections[0].fetchval("select count(*) from bare_point")
        if found != POINTS:
            raise Void(f"{POINTS} rows were copied, {found} are there")
        await self._connections[0].execute("truncate bare_point")
        return sample

    async def _write(self, connection: asyncpg.Connection) -> None:
        for part in self._parts:
            await connection.copy_to_table("bare_point", source=BytesIO(part))


async def bare(floor: Bodies, media: str, bodies: Sequence[bytes]) -> Sample:
    """Let four clients have the same bodies read, sealed and committed."""
    watch = Stopwatch()
    await floor.ingest(corpus.MEDIA[media][0], [bodies] * CLIENTS)
    sample = watch.sample(POINTS)
    await floor.forget()
    return sample


class Peer:
    """MLflow's server, and four clients with a run of their own; at most as many bodies as ours get."""

    def __init__(self, server: Mlflow) -> None:
        self._server = server

    async def log(self) -> Sample:
        """Log batches of 1,000 metrics for a time."""
        clients = [self._server.client() for _ in range(CLIENTS)]
        loads = []
        for client in clients:
            run_id = client.ask("runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
            loads.append([corpus.log_batch(run_id, METRICS, n * STEPS, STEPS) for n in range(PEER_BODIES)])
        watch = Stopwatch()

        def send(client: MlflowClient, bodies: Sequence[bytes]) -> int:
            done = 0
            while watch.seconds < PEER_SECONDS and done < len(bodies):
                client.send("runs/log-batch", bodies[done])
                done += 1
            return done

        sending = [asyncio.to_thread(send, *pair) for pair in zip(clients, loads, strict=True)]
        sample = watch.sample(sum(await asyncio.gather(*sending)) * METRICS * STEPS)
        for client in clients:
            client.close()
        return sample


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and check after each round that nothing acknowledged is missing."""
    url = stack.postgres.url("postgres")
    connections = [await asyncpg.connect(url) for _ in range(CLIENTS)]
    run_id = uuid4()
    floor = Floor(connections, [corpus.rows(run_id, METRICS, n * STEPS, STEPS) for n in range(BODIES)])
    await floor.open()
    ours = Ours(stack, connections[0])
    sealed = Bodies(connections[0])
    await sealed.open()
    everybody: dict[str, Contestant] = {}
    for media in corpus.MEDIA:
        bodies = [corpus.body(media, n + 1, METRICS, n * STEPS, STEPS) for n in range(BODIES)]
        everybody[media] = partial(ours.ingest, media, bodies)
        everybody[BARE + media] = partial(bare, sealed, media, bodies)
    try:
        async with mlflow(stack.postgres) as server:
            measured = await rounds({**everybody, COPY: floor.copy, PEER: Peer(server).log}, ROUNDS)
    finally:
        ours.close()
        for connection in connections:
            await connection.close()
    drains = sorted(ours.drains)
    return [judged(comparison, measured) for comparison in COMPARISONS], [
        (
            f"Draining took {statistics.median(drains):.2f} of the load's own time ({drains[0]:.2f}–{drains[-1]:.2f}); "
            f"the goal is at most 1. Our CPU-seconds go on until the drain has ended."
        ),
        f"In every round all {POINTS:,} acknowledged points were in Parquet and in the metrics' summaries.",
        "MLflow gets the same bodies of 1,000 points as JSON, by four clients with a run each, for a few seconds.",
    ]
