"""A whole system with a GPU worker, and what the tests ask of it."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

import tachograph
from stack import Process, Stack
from tests.api import SECONDS, until
from tests.gate import Gate
from workers.gpu.records import RunDirectory

COUNTING = """
import sys, time
for i in range({lines}):
    print("line", i)
    print("err", i, file=sys.stderr)
    time.sleep({pause})
sys.exit({code})
"""


class Gates(NamedTuple):
    """What stands between the worker and the servers."""

    api: Gate
    nats: Gate

    def shut(self) -> None:
        """Cut the worker's network."""
        self.nats.shut()
        self.api.shut()

    def open(self) -> None:
        """Join it again."""
        self.api.open()
        self.nats.open()

    def until_shut(self) -> None:
        """Wait for the request at which the service goes away."""
        until(lambda: not self.api.is_open, "the worker asks for what it will not get")

    def asked(self, request: str) -> int:
        """Count the connections that asked for it in vain."""
        return sum(request.encode() in said for said in (*self.api.turned_away, *self.api.held))


class System:
    """The running stack and what the tests ask of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = tachograph.Client(stack.url, stack.api_key)
        self.project = self.client.create_project(f"gpu-{uuid.uuid4()}")["id"]
        self.runs: list[str] = []

    @property
    def worker(self) -> Process:
        """The worker's process."""
        return self.stack.processes["gpu"]

    @property
    def service(self) -> Process:
        """The service's process."""
        return self.stack.processes["service"]

    @property
    def volume(self) -> Path:
        """What the worker offers as `volume:data`."""
        return Path(self.worker.environment["TACHOGRAPH_WORKER_VOLUMES"].removeprefix("data="))

    def directory(self, run: str) -> RunDirectory:
        """What the worker keeps of a run."""
        return RunDirectory(self.stack.home.path / "worker" / "runs" / run)

    @contextmanager
    def worker_with(self, **environment: str) -> Iterator[None]:
        """Have the worker restarted with other variables, and as it was at the end."""
        before = dict(self.worker.environment or {})
        try:
            self._restart(before | environment)
            yield
        finally:
            self._restart(before)

    def _restart(self, environment: dict[str, str]) -> None:
        assert self.worker.stop(SECONDS), "the worker did not stop in time"
        self.worker.environment = environment
        self.worker.start()

    @contextmanager
    def locked_out(self) -> Iterator[None]:
        """Have all API keys refused, the worker's and ours; returns when they are."""

        async def revoke(at: datetime | None) -> None:
            owner = await asyncpg.connect(self.stack.postgres.url("tachograph_owner"))
            await owner.execute("update projection.api_key set revoked_at = $1", at)
            await owner.execute("notify tachograph_key")
            await owner.close()

        asyncio.run(revoke(datetime.now(UTC)))
        try:
            until(self._is_locked_out, "the key is refused")
            yield
        finally:
            asyncio.run(revoke(None))

    def _is_locked_out(self) -> bool:
        try:
            self.client.usage()
        except tachograph.Unauthorized:
            return True
        return False

    def start(self, *command: str, **fields: Any) -> str:
        """Create a run of one command, or of the `commands` given."""
        run = self.client.create_run(self.project, command=list(command) or None, **fields)["id"]
        self.runs.append(run)
        return run

    def python(self, source: str, **fields: Any) -> str:
        return self.start("python", "-c", source, **fields)

    def doubling(self, model: str, command: str = "cat in/w.bin in/w.bin > w.bin") -> str:
        """Create a run that brings a model in and takes another out."""
        return self.start(
            "sh", "-c", command,
            import_volumes=[{"place": f"artifact:{model}/base", "path": "in"}],
            export_volumes=[{"place": "artifact:result/w.bin", "path": "w.bin"}],
        )  # fmt: skip

    def given_up(self, run: str) -> bool:
        """Say whether the worker has ended a run that had no program yet."""
        return self.directory(run).exit() is not None

    def wait(self, run: str) -> tachograph.RunResource:
        return self.client.wait(run, timeout_seconds=SECONDS)

    def wait_for(self, run: str, status: str) -> None:
        until(lambda: self.client.run(run)["status"] == status, f"run {run} {status}")

    def texts(self, run: str, stream: str = "stdout") -> list[str]:
        return [line["text"] for line in self.client.stream_logs(run, stream=stream)]

    def texts_so_far(self, run: str) -> list[str]:
        """What it printed, up to 1,000 lines, whether or not it has ended."""
        return [line["text"] for line in self.client.logs(run, stream="stdout", limit=1000)["lines"]]

    def printed(self, run: str) -> int:
        return len(self.texts_so_far(run))

    def events(self, run: str) -> list[str]:
        return [event["type"].split("run.")[-1] for event in self.client.events(run=run)]

    def happened(self, run: str) -> list[str]:
        """The run's events but for its telemetry."""
        return [event for event in self.events(run) if not event.endswith(("written", "logged", "telemetry_archived"))]


def crash(process: Process) -> None:
    """Kill a process as a stranger would, and wait for the next one."""
    restarts = process.restarts
    process.crash()
    until(lambda: process.restarts > restarts, f"a new {process.name}")


def answers(system: System) -> bool:
    """Say whether the service does."""
    try:
        system.client.request("GET", "/usage", retry_seconds=0.5)
    except tachograph.Error:
        return False
    return True


def sh(source: str, directory: str = "") -> dict[str, Any]:
    """One of several commands."""
    return {"argv": ["sh", "-c", source], "working_directory": directory}
