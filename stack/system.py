"""All parts together: started in order, each when what it needs is ready, and stopped in reverse."""

import errno
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stack.errors import ProcessFailed, StackError
from stack.home import Home, write_private
from stack.nats import Nats
from stack.ports import HOST
from stack.postgres import Postgres
from stack.process import ROOT, Process, Say, rotate, tail
from stack.warden import Warden

READY_SECONDS: Final = 60.0
BOOTSTRAP_SECONDS: Final = 120.0
STOP_SECONDS: Final = 4.6
STEP_SECONDS: Final = 0.6
SERVERS_SECONDS: Final = 1.4  # of STOP_SECONDS, for NATS and PostgreSQL

OURS_ALONE: Final = (
    "TACHOGRAPH_DATABASE_URL",
    "TACHOGRAPH_OWNER_DATABASE_URL",
    "TACHOGRAPH_NATS_URL",
    "TACHOGRAPH_NATS_MONITOR_URL",
    "TACHOGRAPH_MASTER_KEY",
    "TACHOGRAPH_PARQUET",
    "TACHOGRAPH_URL",
    "TACHOGRAPH_API_KEY",
    "TACHOGRAPH_RUN_ID",
    "TACHOGRAPH_RUN_TOKEN",
    "TACHOGRAPH_EPOCH",
    "TACHOGRAPH_PROJECT",
)
"""Variables that a process has from us or not at all, whatever our own environment says."""

FRUGAL: Final = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""What keeps the memory of servers flat unless told otherwise: few threads of theirs allocate at the same time."""


class Stack:
    """The system, as a context manager or by `start` and `stop`.

    `roles` are what `python -m workers` takes, a process each. `environment` is added to every process of ours;
    to change one process alone, stop it, edit `processes[name].environment` and start it again.
    """

    def __init__(
        self,
        home: Path,
        port: int,
        *,
        roles: Sequence[str] = ("roles",),
        gpu_worker: bool = True,
        environment: Mapping[str, str] | None = None,
        say: Say | None = None,
    ) -> None:
        self.home = Home(home)
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.api_key: str | None = None
        self.processes: dict[str, Process] = {}
        self._roles = tuple(roles)
        self._gpu_worker = gpu_worker
        self._environment = dict(environment or {})
        self._say = say or (lambda _: None)
        self._warden: Warden | None = None
        self._stopping = threading.Event()
        self.postgres = Postgres(home, say=self._say)
        self.nats = Nats(home, say=self._say)

    def start(self) -> None:
        """Start everything and return when it is ready. Raises `StackError`; then nothing is left running."""
        self.home.prepare()
        self._stopping.clear()
        lock = self.home.acquire()
        try:
            self._require_port()
            self.home.ensure_master_key()
            self._warden = Warden(keep=lock)
            self.postgres.start(self._warden)
            self.nats.start(self._warden)
            self._write_environment()
            keys = self._bootstrap()
            self.api_key = self.home.write_credentials(self.url, keys.get("api_key"))
            self._start_service()
            if self._gpu_worker:
                self._start_gpu_worker(keys.get("worker_key"))
        except BaseException:
            self.stop()
            raise

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop everything, the last started first; whatever is still there after the time is killed."""
        give_up = time.monotonic() + seconds
        self._stopping.set()
        ours = list(reversed(self.processes.values()))
        for process in ours:
            process.ask()
            process.ended(min(STEP_SECONDS, give_up - SERVERS_SECONDS - time.monotonic()))
        for process in ours:
            if not process.ended(give_up - SERVERS_SECONDS - time.monotonic()):
                self._say(f"{process.name} did not stop in time and is killed")
                process.kill()
        self.nats.stop(0.4)
        self.postgres.stop(max(0.5, give_up - time.monotonic()))
        if self._warden is not None:
            self._warden.close()
            self._warden = None
        self.home.release()

    def failure(self) -> ProcessFailed | None:
        """Return why a process stays down, if one does."""
        for process in (self.postgres.process, self.nats.process, *self.processes.values()):
            if process is not None and process.failure is not None:
                return process.failure
        return None

    def rotate_logs(self) -> None:
        """Keep the logs of a long-running system bounded."""
        for log in self.home.logs.glob("*.log"):
            rotate(log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_service(self) -> None:
        """Start the service and the roles, which need nothing of each other, and wait for the former."""
        self._add("service", "-m", "service", environment=self._server_environment("service"))
        for role in self._roles:
            self._add(role, "-m", "workers", role, environment=self._server_environment("roles"))
        give_up = time.monotonic() + READY_SECONDS
        said = "nothing"
        while time.monotonic() < give_up:
            if (failure := self.failure()) is not None:
                raise failure
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except urllib.error.HTTPError as error:
                said = error.read(500).decode(errors="replace")
            except OSError as error:
                said = str(error)
            if self._stopping.wait(0.02):
                raise StackError("stopped while starting")
        raise StackError(f"the service was not ready within {READY_SECONDS:g} s; it said: {said}")

    def _start_gpu_worker(self, api_key: str | None) -> None:
        if api_key is None:
            raise StackError(
                "the worker's API key, `first worker`, was revoked: start without a GPU worker, "
                "and one with another key beside it (docs/workers.md)"
            )
        common = self._common_environment()  # the object store's credentials are the service's: a run may ask for ours
        environment = {name: value for name, value in common.items() if not name.startswith("AWS_")} | {
            "TACHOGRAPH_NATS_URL": self.nats.url("worker"),
            "TACHOGRAPH_URL": self.url,
            "TACHOGRAPH_API_KEY": api_key,
        }
        self._add("gpu", "-m", "workers", "gpu", environment=environment)

    def _add(self, name: str, *arguments: str, environment: Mapping[str, str]) -> None:
        assert self._warden is not None
        self.processes[name] = Process(
            name,
            [sys.executable, *arguments],
            environment=environment,
            log=self.home.logs / f"{name}.log",
            warden=self._warden,
            say=self._say,
        )
        self.processes[name].start()

    def _bootstrap(self) -> dict[str, str]:
        """Migrate, and make the first API keys; returns those that are in force."""
        environment = self._server_environment("service")
        environment["TACHOGRAPH_OWNER_DATABASE_URL"] = self.postgres.url("tachograph_owner")
        log = self.home.logs / "bootstrap.log"
        with log.open("wb") as errors:
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "service", "bootstrap"],
                    check=False,
                    env=environment,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    timeout=BOOTSTRAP_SECONDS,
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                raise ProcessFailed(f"migrations took more than {BOOTSTRAP_SECONDS:g} s", tail(log, 20)) from None
        if done.returncode:
            raise ProcessFailed(f"preparing the database failed; the log is {log}", tail(log, 20))
        keys: dict[str, str] = json.loads(done.stdout or "{}")
        return keys

    def _common_environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
        return inherited | {
            "PYTHONUNBUFFERED": "1",
            "TACHOGRAPH_HOME": str(self.home.path),
            "TACHOGRAPH_PORT": str(self.port),
            **self._environment,
        }

    def _write_environment(self) -> None:
        """Keep what the commands beside the system need (`python -m service verify`, …), for a shell to read."""
        variables = self._server_environment("roles")
        variables["TACHOGRAPH_OWNER_DATABASE_URL"] = self.postgres.url("tachograph_owner")
        variables["TACHOGRAPH_NATS_REPLAY_URL"] = self.nats.url("replay")
        ours = {name: value for name, value in sorted(variables.items()) if name.startswith("TACHOGRAPH_")}
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in ours.items())
        write_private(self.home.environment, "".join(lines).encode())

    def _server_environment(self, user: str) -> dict[str, str]:
        return (
            FRUGAL
            | self._common_environment()
            | {
                "TACHOGRAPH_DATABASE_URL": self.postgres.url(),
                "TACHOGRAPH_NATS_URL": self.nats.url(user),
                "TACHOGRAPH_NATS_MONITOR_URL": self.nats.monitor_url,
                "TACHOGRAPH_MASTER_KEY": str(self.home.master_key),
                "TACHOGRAPH_PARQUET": str(self.home.parquet),
            }
        )

    def _require_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((os.environ.get("TACHOGRAPH_HOST", HOST), self.port))
            except OSError as error:
                why = "taken" if error.errno == errno.EADDRINUSE else f"not usable ({error.strerror})"
                raise StackError(f"port {self.port} is {why}; choose another with TACHOGRAPH_PORT") from error
