"""The whole system, each part a process of its own that can be killed at any moment or at a named step."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx

from events import bus
from stack import Process, Stack
from stack.process import tail
from tests import servers
from tests.api import Project, accepted, until
from tests.fault import messages

ROLES = ("relay", "projector", "archiver", "scheduler", "monitor")
EAGER = {
    "TACHOGRAPH_ARCHIVE_AGE_SECONDS": "0.2",
    "TACHOGRAPH_ARCHIVE_TAIL_SECONDS": "0.1",
    "TACHOGRAPH_ARCHIVE_HOT_BYTES": "20000",
    "TACHOGRAPH_ARCHIVE_FILE_BATCHES": "50",
}
"""Archive in small files and all the time, so that every fault falls into it."""


class Cluster:
    """A running system and the ways to hurt it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.api = httpx.Client(
            base_url=f"{stack.url}/api/v1", headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=30
        )

    def project(self, name: str) -> Project:
        """Open a project."""
        return Project(self.api, accepted(self.api.post("/projects", json={"name": name}), 201))

    def process(self, name: str) -> Process:
        """Return the process of a role, of the service, or of a server."""
        found = {"postgres": self.stack.postgres.process, "nats": self.stack.nats.process}.get(name)
        return found or self.stack.processes[name]

    def kill(self, name: str) -> None:
        """Kill a part as `kill -9` does; returns when another process stands in its place."""
        process = self.process(name)
        pid = process.pid
        process.crash()
        until(lambda: self._stands_again(process, pid), f"{name} runs again")

    def kill_at(self, role: str, point: str) -> None:
        """Let a role die at a named step; returns when it has, and runs as usual again."""
        process = self.process(role)
        assert process.environment is not None
        process.stop()
        before = process.restarts
        process.environment["TACHOGRAPH_CRASH_AT"] = point
        process.start()
        until(lambda: process.restarts > before or process.failure is not None, f"{role} died at {point}")
        del process.environment["TACHOGRAPH_CRASH_AT"]
        pid = process.pid
        process.crash()  # it may have been started with the crash point still set
        until(lambda: self._stands_again(process, pid), f"{role} runs again")

    def restart(self, role: str, **environment: str) -> None:
        """Stop a role and start it with other settings."""
        process = self.process(role)
        assert process.environment is not None
        process.stop()
        process.environment.update(environment)
        process.start()

    def _stands_again(self, process: Process, former: int | None) -> bool:
        if process.failure is not None:  # it was killed more often in a row than its keeper bears
            process.start()
        return process.pid is not None and process.pid != former

    def last_words(self) -> list[tuple[str, str]]:
        """Return the end of every log."""
        return [(str(log), "\n".join(tail(log, 60))) for log in sorted(self.stack.home.logs.glob("*.log"))]

    def is_ready(self) -> bool:
        """Return whether the service answers, with Postgres and NATS behind it."""
        try:
            answer = httpx.get(f"{self.stack.url}/readyz", timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and set(answer.json()["checks"].values()) == {"ok"}

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask Postgres itself."""
        connection = await asyncpg.connect(self.stack.postgres.url("tachograph_owner"))
        try:
            await connection.execute("set search_path = projection, ledger")
            found: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return found
        finally:
            await connection.close()

    async def published(self, ledger: str) -> dict[str, list[UUID]]:
        """Return the ids of a ledger's messages, by stream, in the order in which they are stored."""
        client = await bus.connect(self.stack.nats.url("roles"), name="test")
        try:
            return {
                stream: [
                    UUID((message.headers or {})["Nats-Msg-Id"])
                    for message in await messages.stored(client.jetstream(), stream, ledger)
                ]
                for stream in ("EVENTS", "TELEMETRY")
            }
        finally:
            await client.close()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster with a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="tachograph-fault-"))
    try:
        with Stack(home, servers.free_port(), roles=ROLES, gpu_worker=False, environment=EAGER) as stack:
            cluster = Cluster(stack)
            with cluster.api:
                until(cluster.is_ready, "the cluster is ready")
                yield cluster
    finally:
        shutil.rmtree(home)
