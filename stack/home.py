"""The directory that holds everything: data, secrets, logs. One stack at a time has it."""

import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import Final

from stack.errors import StackError

MASTER_KEY_BYTES: Final = 32
LEAVING_SECONDS: Final = 15.0


class Home:
    """Where things are under `TACHOGRAPH_HOME`, and the lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.logs = self.path / "logs"
        self.parquet = self.path / "parquet"
        self.master_key = self.path / "master.key"
        self.credentials = self.path / "credentials.json"
        self.environment = self.path / "environment"
        self._lock: int | None = None

    def prepare(self) -> None:
        """Create what is missing. Raises `StackError` if the place cannot be written."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self.logs, self.parquet):
                directory.mkdir(mode=0o700, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StackError(
                f"{self.path} cannot be written ({error.strerror}); choose another place with TACHOGRAPH_HOME"
            ) from error

    def acquire(self) -> int:
        """Take the lock and return its file descriptor; raises `StackError` if another stack has it.

        After a stack was killed its warden keeps the lock while it stops what is left: that is waited for.
        """
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StackError(f"{self.path / 'lock'} cannot be opened ({error.strerror})") from error
        give_up = time.monotonic() + LEAVING_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(lock, 32, 0).decode().strip()
                if _alive(holder) or time.monotonic() > give_up:
                    os.close(lock)
                    raise StackError(
                        f"{self.path} is in use by another Tachograph (process {holder}); "
                        "stop it, or choose another place with TACHOGRAPH_HOME"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock
        return lock

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def ensure_master_key(self) -> None:
        """Create the master key once. Raises `StackError` if data is there whose key is not."""
        if self.master_key.exists():
            return
        if (self.path / "postgres").exists() and self.credentials.exists():
            raise StackError(f"{self.master_key} is missing; nothing recorded can be read without it: restore it")
        write_private(self.master_key, secrets.token_bytes(MASTER_KEY_BYTES))

    def write_credentials(self, url: str, api_key: str | None) -> str | None:
        """Keep the first API key for the user, and the URL up to date; returns the key, None if nobody has it."""
        if api_key is None and self.credentials.exists():
            api_key = json.loads(self.credentials.read_text())["api_key"]
        if api_key is not None:
            write_private(self.credentials, json.dumps({"url": url, "api_key": api_key}).encode() + b"\n")
        return api_key


def write_private(path: Path, content: bytes) -> None:
    """Write a file for the owner's eyes only, so that it is either whole and durable or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _alive(pid: str) -> bool:
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
