"""P10: from `log()` to an open event stream, while others load the same project at half of what P2 sends.

A program logs one number a time with the client library, which gathers what it logs for 20 ms; another follows the
run's event stream over HTTP. The time is from the call of `log` to when the event has been read. First P2's load runs
for a few seconds as fast as it goes; then four clients send bodies of 1,000 points at half of that rate.

The peer is trackio as it is used without a server: it keeps what is logged in SQLite, and a reader looks there. It logs
as often, afterwards, with nothing else going on.
"""

import asyncio
import http.client
import statistics
import threading
import time
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from bench import corpus, peers, trackio
from bench.client import Client
from bench.harness import Result, Void
from bench.p2 import CLIENTS, METRICS, STEPS
from bench.storm import StormClient, request, storm
from stack.system import Stack
from tachograph import init

FASTEST_SECONDS: Final = 3.0
LOADED_SECONDS: Final = 40.0
EVERY_SECONDS: Final = 0.6
"""Slower than the client library lets a batch grow for programs that log on and on."""
GOAL_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 10.0


class Follower(threading.Thread):
    """Reads a run's event stream, and notes when each step of its metric was there."""

    def __init__(self, url: str, api_key: str, run_id: str) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {api_key}"}
        self._connection.request("GET", f"/api/v1/runs/{run_id}/stream?types=run.metrics_logged", headers=headers)
        self._answer = self._connection.getresponse()
        self.seen: dict[int, float] = {}

    def run(self) -> None:
        """Read until the connection is closed."""
        while line := self._answer.readline():
            if line.startswith(b"data:"):
                now = time.perf_counter()
                event: Any = msgspec.json.decode(line.removeprefix(b"data:"))
                if "data" not in event:  # the service says good-bye
                    continue
                for step in event["data"]["series"]["probe"]["step"]:
                    self.seen[step] = now


async def load(clients: list[StormClient], requests: list[list[bytes]], seconds: float, rate: float | None) -> float:
    """Send bodies for a time, as fast as it goes or at `rate` bodies a second of all; returns bodies a second."""
    began = time.perf_counter()
    sent = 0

    async def send(client: StormClient, bodies: list[bytes]) -> None:
        nonlocal sent
        for number, body in enumerate(bodies):
            if time.perf_counter() - began > seconds:
                return
            if rate is not None:
                await asyncio.sleep(began + number * len(clients) / rate - time.perf_counter())
            await client.ask(body)
            sent += 1

    await asyncio.gather(*(send(*pair) for pair in zip(clients, requests, strict=True)))
    return sent / (time.perf_counter() - began)


def bodies(stack: Stack, run_id: str, first: int, number: int) -> list[bytes]:
    """Return requests of 1,000 points each."""
    assert stack.api_key is not None
    path = f"/api/v1/runs/{run_id}/metrics"
    return [
        request(stack.url, stack.api_key, "POST", path, corpus.body("JSON", seq, METRICS, seq * STEPS, STEPS))
        for seq in range(first, first + number)
    ]


def program(stack: Stack, project: str) -> tuple[list[float], Follower]:
    """Log once in a while, and return when each step was logged, with what saw them."""
    assert stack.api_key is not None
    logged = []
    with init(project=project, url=stack.url, api_key=stack.api_key) as run:
        follower = Follower(stack.url, stack.api_key, run.id)
        follower.start()
        for step in range(int(LOADED_SECONDS / EVERY_SECONDS)):
            logged.append(time.perf_counter())
            run.log({"probe": float(step)}, step=step)
            time.sleep(EVERY_SECONDS)
        give_up = time.perf_counter() + PATIENCE_SECONDS
        while len(follower.seen) < len(logged) and time.perf_counter() < give_up:
            time.sleep(0.05)
    if len(follower.seen) < len(logged):
        raise Void(f"{len(logged)} points were logged, {len(follower.seen)} were seen on the stream")
    return logged, follower


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and return what came of it as notes."""
    assert stack.api_key is not None
    peers.version("trackio")
    client = Client(stack.url, stack.api_key)
    project = f"p10-{uuid4()}"
    project_id = client.project(project)
    runs = [client.started_run(project_id) for _ in range(CLIENTS)]
    async with storm(stack.url, CLIENTS) as clients:
        fastest = await load(clients, [bodies(stack, run_id, 1, 2_000) for run_id in runs], FASTEST_SECONDS, None)
        number = int(fastest * LOADED_SECONDS / CLIENTS)
        half = [bodies(stack, run_id, 10_000, number) for run_id in runs]
        logging = asyncio.to_thread(program, stack, project)
        (logged, follower), kept = await asyncio.gather(
            logging, load(clients, half, LOADED_SECONDS + EVERY_SECONDS, fastest / 2)
        )
    client.close()
    times = sorted(follower.seen[step] - at for step, at in enumerate(logged))
    p95 = times[int(len(times) * 0.95)]
    points = METRICS * STEPS
    return [], [
        (
            f"From `log()` to the open stream: p95 {p95 * 1e3:.0f} ms (goal ≤ {GOAL_SECONDS * 1e3:.0f} ms,"
            f" {'met' if p95 <= GOAL_SECONDS else 'not met'}), median {statistics.median(times) * 1e3:.0f} ms,"
            f" largest {times[-1] * 1e3:.0f} ms, of {len(times)} points, one every {EVERY_SECONDS:g} s."
        ),
        (
            f"Meanwhile {kept * points:,.0f} points/s came into the same project; as fast as it goes it were"
            f" {fastest * points:,.0f} points/s."
        ),
        "What is logged more often than twice a second for long is gathered for up to half a second.",
        _compared(times, await trackio.seconds_to_visible(len(times), EVERY_SECONDS)),
    ]


def _compared(ours: list[float], theirs: list[float]) -> str:
    """Return what trackio took, and how ours compares."""
    ours, theirs = sorted(ours), sorted(theirs)
    (p95, median), (own, usual) = [(one[int(len(one) * 0.95)], statistics.median(one)) for one in (theirs, ours)]
    return (
        f"trackio {peers.version('trackio')}, without load, to where its SQLite file can be read: p95"
        f" {p95 * 1e3:.0f} ms, median {median * 1e3:.0f} ms, of {len(theirs)} points, one every {EVERY_SECONDS:g} s;"
        f" ours under load is {p95 / own:.2f}× as fast at p95, {median / usual:.2f}× in the median."
    )
