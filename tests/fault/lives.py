"""Runs that are created, started, taken over, killed, finished, left and deleted while parts of the system die."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import httpx

from tests.api import Json
from tests.fault.load import BEAT_SECONDS, PACE_SECONDS, PATIENT, SECONDS, STRICT, Clients, Sender
from tests.fault.operations import Operation, Violation

End = Literal["completed", "failed", "killed", "vanished", "deleted"]


class Lived:
    """A run, and what must have become of it."""

    def __init__(self, run: Json) -> None:
        self.run = run
        self.end: End | None = None
        self.attempts: list[Operation] = []


class Managed:
    """Runs that the GPU worker starts, one after the other; each prints lines and ends well, whatever happens."""

    LINES = 20
    PROGRAM = f"import time\nfor n in range({LINES}):\n    print('line', n, flush=True)\n    time.sleep(0.05)"

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.runs: list[Json] = []

    async def live(self) -> None:
        """Have one run after the other until told to stop; the last one is brought to its end."""
        while not self.clients.stopping.is_set():
            body = {
                "name": f"managed-{len(self.runs)}",
                "command": [sys.executable, "-c", self.PROGRAM],
                "liveness": PATIENT,
            }
            path = f"/projects/{self.clients.project.id}/runs"
            create = self.clients.operation("managed", f"create {body['name']}", "POST", path, body)
            run = await self.clients.known(create)
            if run is None:
                raise Violation(f"{create}: refused: {create.content[:300]!r}")
            self.runs.append(run)
            await self._ended(run)

    async def _ended(self, run: Json) -> None:
        give_up = time.monotonic() + 2 * SECONDS
        status = "never shown"
        while time.monotonic() < give_up:
            with suppress(httpx.TransportError):
                answer = await self.clients.http.get(f"/runs/{run['id']}")
                status = answer.json()["status"] if answer.is_success else status
                if status in {"completed", "failed", "killed", "crashed"}:
                    break
            await asyncio.sleep(10 * PACE_SECONDS)
        if status != "completed":
            raise Violation(f"a run that a GPU worker starts completes: {run['name']} ({run['id']}) is {status}")


class Life:
    """A program that starts one run after the other and beats as long as it works on it."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.clients = clients
        self.name = name
        self.lived: list[Lived] = []
        self.senders: list[Sender] = []

    async def live(self) -> None:
        """Live runs until told to stop; the last one is brought to its end."""
        while not self.clients.stopping.is_set():
            await self._one(f"{self.name}-{len(self.lived)}")

    async def _one(self, name: str) -> None:
        path = f"/projects/{self.clients.project.id}/runs"
        create = self._operation(f"create {name}", path, {"name": name, "liveness": STRICT})
        run = await self.clients.known(create)
        if run is None:
            raise Violation(f"{create}: refused: {create.content[:300]!r}")
        lived = Lived(run)
        self.lived.append(lived)
        async with self._beating(run, 1):
            await self._start(lived, 1)
            sender = self._sender(run, 1)
            await self._work(sender)
            if self.clients.random.random() < 0.5:
                async with self._beating(run, 2):
                    await self._start(lived, 2)
                    zombie, sender = sender, self._sender(run, 2)
                    await asyncio.gather(self._work(sender), self._haunt(zombie))
                    await self._end(lived, sender)
            else:
                await self._end(lived, sender)
        if lived.end in {"completed", "failed", "killed"} and self.clients.random.random() < 0.2:
            await self._ask(f"delete {run['name']}", f"/runs/{run['id']}", {}, method="DELETE")
            lived.end = "deleted"

    def _sender(self, run: Json, epoch: int) -> Sender:
        sender = Sender(self.clients, run, epoch, "sdk")
        self.senders.append(sender)
        return sender

    async def _start(self, lived: Lived, epoch: int) -> None:
        """Start an attempt; whoever is told ok is this attempt and no other."""
        start = self._operation(f"start attempt {epoch}", f"/runs/{lived.run['id']}/start", {"pid": epoch})
        document = await self.clients.known(start)
        if document is None or document["epoch"] != epoch:
            raise Violation(f"{start}: told {start.status} {start.content[:300]!r}, not attempt {epoch}")
        lived.attempts.append(start)

    async def _work(self, sender: Sender) -> None:
        for _ in range(self.clients.random.randint(3, 25)):
            await sender.send()
            await asyncio.sleep(PACE_SECONDS)

    async def _haunt(self, zombie: Sender) -> None:
        """An attempt that was taken over goes on as if it had not been; nothing of it may be accepted."""
        path = f"/runs/{zombie.run['id']}"
        for number in range(4):
            said = [
                (await zombie.send(patient=True)).operation,
                await self._asked(f"zombie progress {number}", f"{path}/progress", {"epoch": 1, "done": number}),
                await self._asked(f"zombie finish {number}", f"{path}/finish", {"epoch": 1, "status": "completed"}),
            ]
            for operation in said:
                if operation.outcome == "ok":
                    raise Violation(f"{operation}: of an attempt that was taken over, and accepted")
            await asyncio.sleep(PACE_SECONDS)

    async def _end(self, lived: Lived, sender: Sender) -> None:
        path = f"/runs/{lived.run['id']}"
        chosen = self.clients.random.choice(["completed", "completed", "failed", "killed", "vanished"])
        if chosen == "vanished":
            lived.end = "vanished"
            return
        if chosen == "killed":
            await self._ask("kill", f"{path}/kill", {"grace_seconds": 60})
        last = {sender.source: sender.last_seq}
        await self._ask("finish", f"{path}/finish", {"epoch": sender.epoch, "status": chosen, "last_seq": last})
        lived.end = chosen  # type: ignore[assignment]

    @asynccontextmanager
    async def _beating(self, run: Json, epoch: int) -> AsyncIterator[None]:
        """Beat all the time, whether anybody hears it or not."""

        async def beat() -> None:
            while True:
                request = self.clients.http.build_request(
                    "POST", f"/runs/{run['id']}/heartbeat", json={"epoch": epoch}, timeout=1
                )
                with suppress(httpx.TransportError):
                    await self.clients.http.send(request)
                await asyncio.sleep(BEAT_SECONDS)

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    def _operation(self, what: str, path: str, body: Json, method: str = "POST") -> Operation:
        return self.clients.operation(self.name, what, method, path, body)

    async def _asked(self, what: str, path: str, body: Json) -> Operation:
        operation = self._operation(what, path, body)
        await self.clients.known(operation)
        return operation

    async def _ask(self, what: str, path: str, body: Json, method: str = "POST") -> None:
        operation = self._operation(what, path, body, method)
        if await self.clients.known(operation) is None and operation.outcome == "fail":
            raise Violation(f"{operation}: refused: {operation.status} {operation.content[:500]!r}")
