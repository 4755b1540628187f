"""P13: create a run, and kill a queued one, by four clients, against MLflow's create_run by four clients.

Each client sends the next request when the last one was answered. The runs that are killed are managed ones which wait
for a worker; they are created before the clock runs. Source of the goal: docs/decisions/0025.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from uuid import uuid4

import asyncpg

from bench.client import Client
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, rounds
from bench.mlflow import Mlflow, mlflow
from stack.system import Stack

CLIENTS: Final = 4
SECONDS: Final = 2.0
ROUNDS: Final = 5
KILLS: Final = 150
PEER: Final = "MLflow create_run"

COMPARISONS: Final = (
    Comparison(what="create a run, 4 clients", ours="create", against=PEER, unit="runs", goal=10),
    Comparison(what="kill a queued run, 4 clients", ours="kill", against=PEER, unit="runs", goal=10),
)

Once = Callable[[], object]


class Ours:
    """The service, and four clients."""

    def __init__(self, stack: Stack) -> None:
        assert stack.api_key is not None
        self._clients = [Client(stack.url, stack.api_key) for _ in range(CLIENTS)]
        self._project = self._clients[0].project(f"p13-{uuid4()}")
        self.created = self.killed = 0

    def _create(self, client: Client, **body: object) -> str:
        document = {"tags": ["bench"], "config": {"lr": 0.1, "batch": 64}, **body}
        return str(client.ask("POST", f"/projects/{self._project}/runs", document)["id"])

    async def create(self) -> Sample:
        """Create runs for a time."""
        sample = await for_a_time([partial(self._create, client) for client in self._clients])
        self.created += int(sample.units)
        return sample

    async def kill(self) -> Sample:
        """Kill queued runs, the same number by each client."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(CLIENTS) as threads:
            queued = await asyncio.gather(*(loop.run_in_executor(threads, self._queue, one) for one in self._clients))
            watch = Stopwatch()
            killing = [
                loop.run_in_executor(threads, self._kill, client, runs)
                for client, runs in zip(self._clients, queued, strict=True)
            ]
            await asyncio.gather(*killing)
            sample = watch.sample(CLIENTS * KILLS)
        self.created += CLIENTS * KILLS
        self.killed += CLIENTS * KILLS
        return sample

    def _queue(self, client: Client) -> list[str]:
        return [self._create(client, command=["true"]) for _ in range(KILLS)]

    def _kill(self, client: Client, runs: list[str]) -> None:
        for run_id in runs:
            client.ask("POST", f"/runs/{run_id}/kill", {})

    async def check(self, stack: Stack) -> None:
        """Raise `Void` unless everything that was acknowledged is there."""
        observer = await asyncpg.connect(stack.postgres.url("postgres"))
        row = await observer.fetchrow(
            "select count(*) as runs, count(*) filter (where status = 'killed') as killed from projection.run r"
            " join projection.project p on p.project_id = r.ledger_id where p.project_id::text = $1",
            self._project,
        )
        await observer.close()
        if (row["runs"], row["killed"]) != (self.created, self.killed):
            raise Void(f"{self.created} runs and {self.killed} kills were acknowledged, not {tuple(row)}")


async def for_a_time(calls: list[Once]) -> Sample:
    """Let each of some clients call again and again for a time; one unit a call."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(calls)) as threads:
        watch = Stopwatch()

        def again(once: Once) -> int:
            done = 0
            while watch.seconds < SECONDS:
                once()
                done += 1
            return done

        done = await asyncio.gather(*(loop.run_in_executor(threads, again, one) for one in calls))
        return watch.sample(sum(done))


def creating(peer: Mlflow) -> Contestant:
    """Return what creates runs in MLflow, four clients, with a parameter or two as ours have."""
    tags = [{"key": "mlflow.runName", "value": "bench"}]
    clients = [peer.client() for _ in range(CLIENTS)]
    document = {"experiment_id": "0", "start_time": 1_790_000_000_000, "tags": tags}
    return partial(for_a_time, [partial(one.ask, "runs/create", document) for one in clients])


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and check that nothing acknowledged is missing."""
    ours = Ours(stack)
    async with mlflow(stack.postgres) as peer:
        contestants = {"create": ours.create, "kill": ours.kill, PEER: creating(peer)}
        measured = await rounds(contestants, ROUNDS)
    await ours.check(stack)
    notes = [f"Afterwards all {ours.created:,} created and {ours.killed:,} killed runs were there."]
    return [judged(comparison, measured) for comparison in COMPARISONS], notes
