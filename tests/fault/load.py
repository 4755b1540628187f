"""Clients that work while parts of the system die: each remembers what it asked for and what it was told."""

import asyncio
import random
import time
from typing import Any, Self
from uuid import uuid4

import httpx

from tests.api import Json, Project
from tests.fault.operations import Journal, Operation, Violation

SECONDS = 90.0
PACE_SECONDS = 0.02
BEAT_SECONDS = 0.3
IMPATIENCE = 0.2
"""How often a client does not wait for the outcome of a batch, and goes on with the next one."""

PATIENT = {"beat_seconds": 100, "unresponsive_seconds": 1_000, "crashed_seconds": 10_000}
STRICT = {"beat_seconds": 1, "unresponsive_seconds": 3, "crashed_seconds": 6}


class Batch:
    """One batch of telemetry."""

    def __init__(self, operation: Operation, epoch: int, source: str, seq: int) -> None:
        self.operation = operation
        self.key = (epoch, source, seq)
        self.points: dict[tuple[str, int], float | str] = {}
        self.lines: list[str] = []


class Clients:
    """What all clients of a round share: the connection, the journal, the seed, and until when they go on."""

    def __init__(self, http: httpx.AsyncClient, project: Project, journal: Journal, seed: int) -> None:
        self.http = http
        self.project = project
        self.journal = journal
        self.random = random.Random(seed)
        self.stopping = asyncio.Event()

    def operation(self, client: str, what: str, method: str, path: str, body: Json, *, key: bool = True) -> Operation:
        headers = {"Idempotency-Key": str(uuid4())} if key else {}
        return Operation(client, what, self.http.build_request(method, path, json=body, headers=headers))

    async def known(self, operation: Operation) -> Json | None:
        """Send until the outcome is known; returns the document, None where it was refused."""
        give_up = time.monotonic() + SECONDS
        while True:
            answer = await self.journal.send(self.http, operation)
            if answer is not None and operation.outcome != "unknown":
                break
            if answer is not None and answer.is_client_error and answer.status_code != 429:
                break  # refused, with an earlier sending in doubt
            if time.monotonic() > give_up:
                raise Violation(f"{operation}: no outcome within {SECONDS:g} s, last {answer}")
            await asyncio.sleep(5 * PACE_SECONDS)
        document: Json | None = answer.json() if answer.is_success else None
        return document


class Sender:
    """One source of one attempt of a run."""

    def __init__(self, clients: Clients, run: Json, epoch: int, source: str) -> None:
        self.clients = clients
        self.run = run
        self.epoch = epoch
        self.source = source
        self.batches: list[Batch] = []
        self.last_seq = 0
        self._step = self._line = 0

    async def send(self, *, patient: bool = False) -> Batch:
        """Send one batch, most often until its outcome is known."""
        random_ = self.clients.random
        self.last_seq += 1
        whole: Json = {"epoch": self.epoch, "source": self.source, "seq": self.last_seq}
        kind = "metrics" if random_.random() < 0.8 else "logs"
        points: dict[tuple[str, int], float | str] = {}
        lines: list[str] = []
        if kind == "metrics":
            whole["series"] = {}
            for name in (f"{self.source}/loss", f"{self.source}/acc"):
                steps = list(range(self._step, self._step + random_.randint(1, 12)))
                values = [_value(random_) for _ in steps]
                whole["series"][name] = {"step": steps, "value": values}
                points |= {(name, step): value for step, value in zip(steps, values, strict=True)}
            self._step += 12
        else:
            lines = [f"{self.source}.{self.epoch} {self._line + index}" for index in range(random_.randint(1, 5))]
            self._line += len(lines)
            whole["lines"] = [{"text": text} for text in lines]
        who = f"{self.source} of {self.run['name']}, attempt {self.epoch}"
        path = f"/runs/{self.run['id']}/{kind}"
        operation = self.clients.operation(who, f"{kind} {self.last_seq}", "POST", path, whole, key=False)
        batch = Batch(operation, self.epoch, self.source, self.last_seq)
        batch.points, batch.lines = points, lines
        self.batches.append(batch)
        if not patient and random_.random() < IMPATIENCE:
            await self.clients.journal.send(self.clients.http, operation)
        else:
            await self.clients.known(operation)
        return batch


def _value(random_: random.Random) -> float | str:
    if random_.random() < 0.05:
        return random_.choice(["NaN", "Infinity", "-Infinity"])
    return random_.gauss(0, 1)


class Steady:
    """A run that is written to from beginning to end by two sources, and edited."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.clients = clients
        self.name = name
        self.run = clients.project.started(name=name, liveness=PATIENT)
        self.senders = [Sender(clients, self.run, 1, source) for source in ("sdk", "worker")]
        self.edits: dict[str, tuple[Operation, int]] = {}

    def tasks(self) -> list[Any]:
        return [*map(self._write, self.senders), self._edit()]

    async def _write(self, sender: Sender) -> None:
        while not self.clients.stopping.is_set():
            await sender.send()
            await asyncio.sleep(PACE_SECONDS)

    async def _edit(self) -> None:
        while not self.clients.stopping.is_set():
            key = f"k{len(self.edits)}"
            value = self.clients.random.randrange(1_000)
            body = {"summary": {key: value}}
            path = f"/runs/{self.run['id']}"
            operation = self.clients.operation(f"editor of {self.name}", f"edit {key}", "PATCH", path, body)
            self.edits[key] = (operation, value)
            await self.clients.known(operation)
            await asyncio.sleep(10 * PACE_SECONDS)

    async def end(self) -> None:
        body = {"epoch": 1, "status": "completed"}
        path = f"/runs/{self.run['id']}/finish"
        await self.clients.known(self.clients.operation(f"program of {self.name}", "finish", "POST", path, body))


class Load:
    """Everybody who works on a project during a round."""

    def __init__(self, http: httpx.AsyncClient, project: Project, journal: Journal, seed: int, lives: int = 3) -> None:
        from tests.fault.lives import Life, Managed

        self.clients = Clients(http, project, journal, seed)
        self.steady = [Steady(self.clients, f"steady-{number}") for number in range(2)]
        self.lives = [Life(self.clients, f"life-{number}") for number in range(lives)]
        self.managed = Managed(self.clients)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def senders(self) -> list[Sender]:
        own = [sender for steady in self.steady for sender in steady.senders]
        return own + [sender for life in self.lives for sender in life.senders]

    @property
    def known(self) -> int:
        """How many requests have an outcome."""
        return len(self.clients.journal.of(("ok", "fail")))

    async def __aenter__(self) -> Self:
        """Begin."""
        work = [task for steady in self.steady for task in steady.tasks()] + [life.live() for life in self.lives]
        work.append(self.managed.live())
        self._tasks = [asyncio.create_task(one) for one in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let nothing go on behind a round that has failed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what a client has met."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def more(self, count: int) -> None:
        """Wait until so many more outcomes are known."""
        wanted = self.known + count
        give_up = time.monotonic() + SECONDS
        while self.known < wanted:
            self.check()
            if time.monotonic() > give_up:
                raise Violation(f"only {self.known - wanted + count} of {count} requests came to an end in {SECONDS} s")
            await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Bring what was begun to its end."""
        self.clients.stopping.set()
        async with asyncio.timeout(3 * SECONDS):
            await asyncio.gather(*self._tasks)
            for steady in self.steady:
                await steady.end()


def number(value: float | str) -> float:
    """Return a value as a number again."""
    return float(value.replace("Infinity", "inf")) if isinstance(value, str) else value
