"""One process of the system: started with a log of its own, restarted when it dies, stopped when told to."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from stack.errors import ProcessFailed, StackError
from stack.warden import Warden

ROOT: Final = Path(__file__).resolve().parent.parent
BACKOFF_SECONDS: Final = (0.1, 0.3, 0.8, 2.0)
QUICK_SECONDS: Final = 20.0
LOG_BYTES: Final = 8 << 20
LOGS_KEPT: Final = 2
TAIL_BYTES: Final = 8 << 10

Say = Callable[[str], None]


class Process:
    """A child that is kept running until `stop` or `kill`.

    It has a session of its own, so that Ctrl-C at the console reaches only us and we decide on the order. After as
    many quick deaths in a row as there are backoffs, and one more, it stays down and `failure` says so.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        warden: Warden,
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
        say: Say | None = None,
        restart: bool = True,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = None if environment is None else dict(environment)
        self.log = log
        self.restarts = 0
        self.failure: ProcessFailed | None = None
        self.failed = threading.Event()
        self._warden = warden
        self._directory = directory
        self._stop_signal = stop_signal
        self._user, self._group = user, group
        self._say = say or (lambda _: None)
        self._restart = restart
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._watcher is not None and self._watcher.is_alive():
            return
        self._stopping.clear()
        self.failed.clear()
        self.failure = None
        rotate(self.log)
        self._spawn()
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True)
        self._watcher.start()

    def stop(self, seconds: float = 5.0) -> bool:
        """Ask it to end, kill it if it has not within the time; says whether it ended by itself."""
        self.ask()
        in_time = self.ended(seconds)
        if not in_time:
            self.kill()
        return in_time

    def ask(self, number: signal.Signals | None = None) -> None:
        """Ask it to end, without waiting; it will not be restarted."""
        with self._lock:
            self._stopping.set()
            self._signal(self._stop_signal if number is None else number)

    def kill(self) -> None:
        """Kill it at once and for good; returns when it is dead."""
        self.ask(signal.SIGKILL)
        self.ended(10.0)

    def crash(self) -> None:
        """Kill it at once as a stranger would: it is restarted."""
        with self._lock:
            self._signal(signal.SIGKILL)

    def ended(self, seconds: float) -> bool:
        """Wait until it is down for good."""
        if self._watcher is None:
            return True
        self._watcher.join(max(0.0, seconds))
        return not self._watcher.is_alive()

    def tail(self, lines: int = 20) -> list[str]:
        """Return the last lines of its log."""
        return tail(self.log, lines)

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            try:
                self._child = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    cwd=self._directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    user=self._user,
                    group=self._group,
                    extra_groups=None if self._user is None else [],
                )
            except OSError as error:
                raise StackError(f"{self.name} cannot be started: {error}") from error
        self._warden.add(self._child.pid, self._stop_signal)

    def _watch(self) -> None:
        quick = 0
        while True:
            started = time.monotonic()
            assert self._child is not None
            code = self._child.wait()
            self._warden.remove(self._child.pid)
            if self._stopping.is_set():
                return
            quick = quick + 1 if time.monotonic() - started < QUICK_SECONDS else 0
            how = f"{self.name} ended unexpectedly ({_described(code)})"
            if not self._restart or quick > len(BACKOFF_SECONDS):
                again = f", {quick} times in a row" if quick > 1 else ""
                self.failure = ProcessFailed(f"{how}{again}; its log is {self.log}", self.tail())
                self.failed.set()
                return
            self._say(f"{how}; starting it again")
            if self._stopping.wait(BACKOFF_SECONDS[max(0, quick - 1)]):
                return
            with self._lock:
                if self._stopping.is_set():
                    return
                self.restarts += 1
                try:
                    self._spawn()
                except StackError as error:
                    self.failure = ProcessFailed(str(error), self.tail())
                    self.failed.set()
                    return


def rotate(log: Path) -> None:
    """Put a log that has grown aside, keeping a few old ones. Its process appends, so it may go on meanwhile."""
    try:
        if log.stat().st_size < LOG_BYTES:
            return
    except FileNotFoundError:
        return
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


def tail(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log, none if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def _described(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
