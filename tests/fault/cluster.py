"""The whole system, each part a process of its own, and the ways to hurt it."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import asyncpg
import httpx
from nats.js.api import RawStreamMsg

from events import bus
from events.keys import Keyring
from stack import Process, Stack
from stack.ports import free_port
from stack.process import tail
from tests.api import SECONDS, Project, accepted, until
from tests.fault import messages
from tests.fault.clock import Clock
from tests.fault.places import Places, Unavailable, places

ROLES = ("relay", "projector", "archiver", "scheduler", "monitor")
OURS = ("service", *ROLES)
PARTS = ("postgres", "nats", *OURS, "gpu")
RECOVERY_SECONDS = 60.0
EAGER = {
    "TACHOGRAPH_ARCHIVE_AGE_SECONDS": "0.2",
    "TACHOGRAPH_ARCHIVE_TAIL_SECONDS": "0.1",
    "TACHOGRAPH_ARCHIVE_HOT_BYTES": "20000",
    "TACHOGRAPH_ARCHIVE_FILE_BATCHES": "50",
}
"""Archive in small files and all the time, so that every fault falls into it."""


class Cluster:
    """A running system and the ways to hurt it."""

    def __init__(self, stack: Stack, found: Places) -> None:
        self.stack = stack
        self.places = found
        self.unheard: list[tuple[datetime, datetime]] = []
        """From when to when no client could be heard."""
        self.url = stack.url
        self.clock = self._give_a_clock()
        if found.namespace is not None:
            self._move(found)
        self.api = httpx.Client(
            base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=SECONDS
        )

    def project(self, name: str) -> Project:
        """Open a project."""
        return Project(self.api, accepted(self.api.post("/projects", json={"name": name}), 201))

    def process(self, name: str) -> Process:
        """Return the process of a role, of the service, or of a server."""
        found = {"postgres": self.stack.postgres.process, "nats": self.stack.nats.process}.get(name)
        return found or self.stack.processes[name]

    # --- faults --------------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """Kill a part as `kill -9` does; returns when another process stands in its place."""
        process = self.process(name)
        pid = process.pid
        process.crash()
        until(lambda: self._stands_again(process, pid), f"{name} runs again", RECOVERY_SECONDS)

    def kill_at(self, role: str, point: str, seconds: float = 20.0) -> bool:
        """Let a role die at a named step, unless it does not come there in time; it runs as usual again."""
        process = self.process(role)
        assert process.environment is not None
        process.stop()
        before = process.restarts
        process.environment["TACHOGRAPH_CRASH_AT"] = point
        process.start()
        try:
            until(lambda: process.restarts > before or process.failure is not None, f"{role} at {point}", seconds)
        except AssertionError:
            return False
        finally:
            del process.environment["TACHOGRAPH_CRASH_AT"]
            process.kill()  # it may have been started with the crash point still set
            process.start()
        return True

    def freeze(self, name: str) -> None:
        """Stop a part where it is, children and all."""
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let it go on."""
        self._signal(name, signal.SIGCONT)

    def stop(self, name: str) -> None:
        """Stop a part in an orderly way."""
        self.process(name).stop()

    def start(self, name: str) -> None:
        """Start a part, whatever else runs."""
        self.process(name).start()

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self.process(name).pid
        if pid is None:
            return
        for one in (pid, *_children(pid)):
            try:
                os.kill(one, number)
            except ProcessLookupError:
                continue

    def _stands_again(self, process: Process, former: int | None) -> bool:
        if process.failure is not None:  # it was killed more often in a row than its keeper bears
            process.start()
        return process.pid is not None and process.pid != former

    # --- looking -------------------------------------------------------------------------------------------

    def last_words(self) -> list[tuple[str, str]]:
        """Return the end of every log."""
        return [(str(log), "\n".join(tail(log, 60))) for log in sorted(self.stack.home.logs.glob("*.log"))]

    def is_ready(self) -> bool:
        """Return whether the service answers, with Postgres and NATS behind it and every role at work."""
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=5)
        except httpx.TransportError:
            return False
        said = answer.json()
        return answer.status_code == 200 and set(said["checks"].values()) == {"ok"}

    def keyring(self) -> Keyring:
        """Return the keys to what Postgres holds."""
        return Keyring.from_file(self.stack.home.master_key)

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask Postgres itself."""
        connection = await asyncpg.connect(self.stack.postgres.url("tachograph_owner"))
        try:
            await connection.execute("set search_path = projection, ledger")
            found: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            return found
        finally:
            await connection.close()

    async def published(self, ledger: str) -> dict[str, list[RawStreamMsg]]:
        """Return a ledger's messages by stream, in the order in which they are stored."""
        client = await bus.connect(self.stack.nats.url("roles"), name="test")
        try:
            return {
                stream: await messages.stored(client.jetstream(), stream, ledger) for stream in ("EVENTS", "TELEMETRY")
            }
        finally:
            await client.close()

    # --- a clock and a namespace --------------------------------------------------------------------------------

    def _give_a_clock(self) -> Clock | None:
        """Give the GPU worker and its programs a clock that can be stepped, where one can be built."""
        worker = self.process("gpu")
        assert worker.environment is not None
        try:
            clock = Clock(self.stack.home.path)
        except Unavailable as error:
            self.places.missing["clock step"] = str(error)
            return None
        self.stop("gpu")
        worker.environment |= clock.environment
        self.start("gpu")
        return clock

    def _move(self, found: Places) -> None:
        """Move service and roles into the namespace; they reach Postgres and NATS, and we them, by cable only."""
        assert found.namespace is not None
        assert found.clients is not None
        assert found.servers is not None
        for name in ("gpu", *reversed(OURS)):
            self.stop(name)
        here = found.servers.ours
        configuration = self.stack.nats.data / "nats.conf"
        said = json.loads(configuration.read_text())
        for field in ("listen", "http"):
            said[field] = f"0.0.0.0:{said[field].rpartition(':')[2]}"
        configuration.write_text(json.dumps(said))
        rules = self.stack.postgres.data / "pg_hba.conf"
        rules.write_text(f"{rules.read_text()}\nhost all all {found.servers.theirs}/32 trust\n")
        postgres = self.process("postgres")
        postgres.command += ["-c", f"listen_addresses={here}"]
        for name in ("postgres", "nats"):
            self.stop(name)
            self.start(name)
        for name in OURS:
            process = self.process(name)
            assert process.environment is not None
            process.command = [*found.namespace.prefix, *process.command]
            nats = process.environment["TACHOGRAPH_NATS_URL"].replace("@127.0.0.1:", f"@{here}:")
            process.environment |= {
                "TACHOGRAPH_DATABASE_URL": f"postgresql://tachograph@{here}/tachograph",
                "TACHOGRAPH_NATS_URL": nats,
                "TACHOGRAPH_NATS_MONITOR_URL": self.stack.nats.monitor_url.replace("127.0.0.1", here),
                "TACHOGRAPH_HOST": "0.0.0.0",
            }
            self.start(name)
        self.url = f"http://{found.clients.theirs}:{self.stack.port}"
        worker = self.process("gpu")
        assert worker.environment is not None
        worker.environment["TACHOGRAPH_URL"] = self.url
        self.start("gpu")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found + [grandchild for child in found for grandchild in _children(child)]


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster with a home of its own."""
    home = Path(tempfile.mkdtemp(prefix="tachograph-fault-"))
    try:
        with (
            places(home) as found,
            Stack(home, free_port(), roles=ROLES, environment=EAGER) as stack,
        ):
            cluster = Cluster(stack, found)
            with cluster.api:
                until(cluster.is_ready, "the cluster is ready", RECOVERY_SECONDS)
                yield cluster
    finally:
        shutil.rmtree(home, ignore_errors=True)
