"""The shims of this machine: launch one, see whether it lives, have it end its program, sweep up without it."""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from workers.gpu.records import Command, Kill, RunDirectory, Started

logger = logging.getLogger(__name__)

SHIM: Final = Path(__file__).with_name("shim.py")
HANDSHAKE_SECONDS: Final = 10.0
SWEEP_SECONDS: Final = 5.0


class LaunchFailed(Exception):
    """The program could not be started; the message says why."""


class Shim:
    """The supervising process of one run, ours or an earlier agent's."""

    def __init__(self, directory: RunDirectory, run_id: str) -> None:
        self._directory = directory
        self._run_id = run_id
        self._child: subprocess.Popen[bytes] | None = None

    def launch(self, commands: Sequence[Command], environment: Mapping[str, str]) -> Started | None:
        """Start the first command and wait until the shim has said so; None if it could not say it (a full disk).

        Blocks for some 30 ms. Raises `LaunchFailed`; then no program runs.
        """
        if not commands or not all(command.argv for command in commands):
            raise LaunchFailed("the run has no command")
        self._directory.write_commands(commands)
        with contextlib.closing(_Lock(self._directory.lock)) as lock, self._log().open("ab") as log:
            arguments = [sys.executable, "-I", "-S", str(SHIM), str(self._directory.path), str(lock.fd)]
            try:
                self._child = subprocess.Popen(
                    arguments,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._directory.path,
                    pass_fds=[lock.fd],
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise LaunchFailed(f"the supervising process cannot be started: {error}") from error
        return self._handshake()

    def lives(self) -> bool:
        """Say whether the shim lives, whoever started it."""
        if self._directory.shim_lives():
            return True
        if self._child is not None:
            self._child.wait()  # it is exiting: collect it, else it stays a zombie
        return False

    def end(self, kill: Kill) -> None:
        """Have the program ended: SIGTERM, grace, SIGKILL. Returns at once; harmless if repeated."""
        try:
            self._directory.order_kill(kill)
        except OSError:
            logger.exception("run %s: the grace cannot be written, the shim uses its default", self._run_id)
        if self._directory.exit() is not None or not self.lives():
            return
        started = self._directory.started()
        if started is None and self._child is None:
            logger.error(
                "run %s: its shim has left no trace of itself, ending all of the run's processes", self._run_id
            )
            self.sweep()
            return
        pid = started.shim_pid if started is not None else self._child.pid if self._child else 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def sweep(self) -> int:
        """Kill every process of the run that its shim, itself killed, can no longer see to; return how many."""
        swept: set[int] = set()
        give_up = time.monotonic() + SWEEP_SECONDS
        while (found := processes_of(self._run_id)) and time.monotonic() < give_up:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            swept.update(found)
            time.sleep(0.02)
        return len(swept)

    def _handshake(self) -> Started | None:
        give_up = time.monotonic() + HANDSHAKE_SECONDS
        while time.monotonic() < give_up:
            if (started := self._directory.started()) is not None:
                return started
            if (exit_ := self._directory.exit()) is not None:
                raise LaunchFailed(exit_.spawn_error)
            if not self.lives() and self._directory.exit() is None and self._directory.started() is None:
                said = self._directory.tail(self._log(), 2000).strip()
                raise LaunchFailed(f"the supervising process ended before the program began: {said}")
            time.sleep(0.005)
        logger.warning("run %s: its shim lives, but could not say so in started.json", self._run_id)
        return None

    def _log(self) -> Path:
        return self._directory.path / "shim.log"


def processes_of(run_id: str) -> list[int]:
    """Return the living processes whose environment names the run."""
    mark = f"TACHOGRAPH_RUN_ID={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or another user's
    return found


class _Lock:
    """The shim's lock, taken here and handed over by inheritance: it stays taken as long as the shim lives."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise LaunchFailed("this run has a supervising process already") from error

    def close(self) -> None:
        """Let go of our copy."""
        os.close(self.fd)
