"""Clients that log while parts of the system die: each remembers what it was promised, and repeats what it was not."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import httpx

from tests.api import Json, Project

SECONDS = 60.0
PACE_SECONDS = 0.01
SOURCES = ("sdk", "worker")
LIVENESS = {"beat_seconds": 100, "unresponsive_seconds": 1_000, "crashed_seconds": 10_000}
UNKNOWN = frozenset({429, 502, 503, 504})
"""Answers that leave open whether the request was recorded."""


class Promise(NamedTuple):
    """A request that was acknowledged, with the answer to it."""

    request: httpx.Request
    status: int
    content: bytes


class Client:
    """One source of one run: sends batches one after the other, each until it is acknowledged."""

    def __init__(self, http: httpx.AsyncClient, run: Json, source: str, seed: int) -> None:
        self.http = http
        self.run = run
        self.source = source
        self.promises: list[Promise] = []
        self.seqs: list[int] = []
        self.points: dict[str, dict[int, float | str]] = {f"{source}/loss": {}, f"{source}/acc": {}}
        self.lines: list[str] = []
        self.summary: dict[str, int] = {}
        self.repeated = 0
        self._random = random.Random(seed)
        self._seq = 0

    async def send_until(self, stop: asyncio.Event) -> None:
        """Send until told to stop; what has been begun is brought to its end."""
        while not stop.is_set():
            kind = self._random.random()
            if kind < 0.75:
                await self._metrics()
            elif kind < 0.95:
                await self._logs()
            else:
                await self._edit()
            await asyncio.sleep(PACE_SECONDS)

    async def _metrics(self) -> None:
        series: dict[str, Any] = {}
        for metric, known in self.points.items():
            steps = range(len(known), len(known) + self._random.randint(0, 12))
            fresh = {step: self._value() for step in steps}
            if fresh:
                series[metric] = {"step": list(fresh), "value": list(fresh.values())}
        if not series:
            return
        await self._batch("metrics", {"series": series})
        for metric, column in series.items():
            self.points[metric].update(zip(column["step"], column["value"], strict=True))

    def _value(self) -> float | str:
        if self._random.random() < 0.05:
            return self._random.choice(["NaN", "Infinity", "-Infinity"])
        return self._random.gauss(0, 1)

    async def _logs(self) -> None:
        texts = [f"{self.source} {len(self.lines) + index}" for index in range(self._random.randint(1, 5))]
        await self._batch("logs", {"lines": [{"text": text} for text in texts]})
        self.lines += texts

    async def _batch(self, kind: str, body: Mapping[str, Any]) -> None:
        self._seq += 1
        whole = {"epoch": 1, "source": self.source, "seq": self._seq, **body}
        await self._promised(self.http.build_request("POST", f"/runs/{self.run['id']}/{kind}", json=whole), 202)
        self.seqs.append(self._seq)

    async def _edit(self) -> None:
        key = f"{self.source}-{len(self.summary)}"
        patch = {key: self._random.randrange(1_000)}
        headers = {"Idempotency-Key": key}
        path = f"/runs/{self.run['id']}"
        await self._promised(self.http.build_request("PATCH", path, json={"summary": patch}, headers=headers), 200)
        self.summary |= patch

    async def _promised(self, request: httpx.Request, status: int) -> None:
        """Send a request again and again until its outcome is known."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    answer = await self.http.send(request)
                except httpx.TransportError:
                    answer = None
                if answer is not None and answer.status_code not in UNKNOWN:
                    break
                self.repeated += 1
                await asyncio.sleep(5 * PACE_SECONDS)
        assert answer.status_code == status, f"{request.method} {request.url}: {answer.status_code} {answer.text}"
        self.promises.append(Promise(request, answer.status_code, answer.content))


class Load:
    """Some runs of a project, each written to by several clients at once."""

    def __init__(self, http: httpx.AsyncClient, project: Project, seed: int, runs: int = 2) -> None:
        self.project = project
        self.runs = [project.started(liveness=LIVENESS) for _ in range(runs)]
        self.clients = [
            Client(http, run, source, seed * 100 + index)
            for index, (run, source) in enumerate((run, source) for run in self.runs for source in SOURCES)
        ]
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def promised(self) -> int:
        """How many requests were acknowledged."""
        return sum(len(client.promises) for client in self.clients)

    async def __aenter__(self) -> Self:
        """Begin to send."""
        self._tasks = [asyncio.create_task(client.send_until(self._stop)) for client in self.clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let nothing go on behind a test that has failed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Wait until so many more requests were acknowledged."""
        wanted = self.promised + count
        async with asyncio.timeout(SECONDS):
            while self.promised < wanted:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Stop sending and complete the runs."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        for run in self.runs:
            last = {one.source: one.seqs[-1] for one in self.clients if one.run is run}
            body = {"epoch": 1, "status": "completed", "last_seq": last}
            answer = self.project.api.post(f"/runs/{run['id']}/finish", json=body)
            assert answer.status_code == 200, answer.text

    def points_of(self, run: Json) -> dict[str, dict[int, float | str]]:
        """Return what a run's clients logged: value by step, by metric."""
        own = [client for client in self.clients if client.run is run]
        return {metric: points for client in own for metric, points in client.points.items()}

    def lines_of(self, run: Json) -> dict[str, list[str]]:
        """Return what a run's clients wrote, in their order."""
        return {client.source: client.lines for client in self.clients if client.run is run}

    def summary_of(self, run: Json) -> dict[str, int]:
        """Return what the run's summary must be."""
        own = [client for client in self.clients if client.run is run]
        return {key: value for client in own for key, value in client.summary.items()}


def number(value: float | str) -> float:
    """Return a value as a number again."""
    return float(value.replace("Infinity", "inf")) if isinstance(value, str) else value
