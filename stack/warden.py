"""The process that stops the others when this one is killed; see warden_process.py."""

import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

PROGRAM: Final = Path(__file__).with_name("warden_process.py")
LEAVE_SECONDS: Final = 2.0


class Warden:
    """Knows every process that we have started. `keep` is a descriptor, a lock, that it holds as long as it lives."""

    def __init__(self, keep: int | None = None) -> None:
        self._keep = () if keep is None else (keep,)
        self._wards: dict[int, int] = {}
        self._lock = threading.Lock()
        self._child = self._spawn()

    def add(self, pid: int, stop_signal: int) -> None:
        """Stop this process too, should we be killed."""
        with self._lock:
            self._wards[pid] = stop_signal
            self._tell(f"+ {pid} {int(stop_signal)}\n")

    def remove(self, pid: int) -> None:
        """This process has ended."""
        with self._lock:
            if self._wards.pop(pid, None) is not None:
                self._tell(f"- {pid}\n")

    def close(self) -> None:
        """Let the warden go; what it still knows of, it stops."""
        with self._lock:
            assert self._child.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(LEAVE_SECONDS)

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line.encode())
        except BrokenPipeError:  # somebody killed it: appoint another one and tell it all
            self._child.wait()
            self._child = self._spawn()
            for pid, stop_signal in self._wards.items():
                self._tell(f"+ {pid} {int(stop_signal)}\n")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=self._keep,
            start_new_session=True,
        )
