"""What is kept on disk of a run, in a directory of its own, so that a restarted agent knows all of it.

    run.json      ours: which run, attempt and slots, and how far it is      work/        the program's directory
    commands.json ours, for the shim: what to run in which order
    shim.lock     held by the shim as long as it lives                       stdout.log   its output
    started.json, exit.json   the shim's                                     stderr.log
    kill.json     ours, for the shim: the grace                              ship.json    how far the log is sent
    outcome.json  the program's, where it says how the run ends
  spool/        the program's, what it has logged and not delivered yet

Every JSON file is written beside its place and renamed, so it is whole or not there.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

logger = logging.getLogger(__name__)

T = TypeVar("T")

FRESH_SECONDS: Final = 60.0


class Phase(StrEnum):
    """How far we are with a run; each is written down before what it names is relied on."""

    CLAIMING = "claiming"  # we mean to claim it; whether the server knows is unknown
    CLAIMED = "claimed"  # it is ours; the program may or may not have been started (the lock and files tell)
    STARTED = "started"  # the server knows that the program runs
    IDLE = "idle"  # the program is gone, termination protection keeps the slots
    ENDED = "ended"  # the server knows the end, or wants to hear no more


class Kill(msgspec.Struct, frozen=True):
    """An order to end a run."""

    cause: str
    grace_seconds: float
    requested_at_us: int


def now_us() -> int:
    """Return the time, in microseconds since the epoch."""
    return time.time_ns() // 1000


def user_kill() -> Kill:
    """Return an order of which nothing is known but that the server has it: the message that said more was lost."""
    return Kill("killed_by_user", 10.0, now_us())


class Command(msgspec.Struct, frozen=True):
    """One of the commands, with its directory in `work/`; as `commands.json` lists them."""

    argv: tuple[str, ...]
    directory: str = ""


class Volume(msgspec.Struct, frozen=True):
    """What is brought to `path` in `work/`, or taken from it to `place`: `artifact:…` or `volume:…`."""

    place: str
    path: str


class RunRecord(msgspec.Struct, kw_only=True):
    """`run.json`. The token is a secret, hence mode 0600; values of secrets are never in here."""

    run_id: str
    command_id: str
    worker_id: str
    slots: tuple[str, ...]
    deadline_us: int
    ordered_epoch: int | None = None
    phase: Phase = Phase.CLAIMING
    protection: bool = False
    project_id: str = ""
    name: str = ""
    epoch: int = 0
    token: str = ""
    commands: tuple[Command, ...] = ()
    import_volumes: tuple[Volume, ...] = ()
    export_volumes: tuple[Volume, ...] = ()
    code: str | None = None
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    kill: Kill | None = None
    preparing_since_us: int | None = None
    stopping_since_us: int | None = None


class Started(msgspec.Struct, frozen=True):
    """`started.json`."""

    pid: int
    shim_pid: int
    started_at_us: int


class Error(msgspec.Struct, frozen=True):
    """An error as the program told it, or as we saw it."""

    type: str = ""
    message: str = ""
    traceback: str = ""


class Said(msgspec.Struct, frozen=True):
    """`outcome.json`: how the run ends, as its program says."""

    status: Literal["completed", "failed", "killed"]
    error: Error | None = None
    exit_code: int | None = None


class Exit(msgspec.Struct, frozen=True):
    """`exit.json`: an exit code or a signal of the last command, and why it could not be executed if that is so.

    `disk_free_bytes` is what its directory's file system had left when it ended.
    """

    ended_at_us: int
    started_at_us: int = 0
    exit_code: int | None = None
    signal: int | None = None
    spawn_error: str = ""
    oom_kills: int = 0
    disk_free_bytes: int | None = None
    command: int = 0

    @property
    def ran(self) -> bool:
        """Whether there was a program at all."""
        return self.exit_code is not None or self.signal is not None


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.stdout = path / "stdout.log"
        self.stderr = path / "stderr.log"
        self.lock = path / "shim.lock"
        self.outcome = path / "outcome.json"
        self.spool = path / "spool"

    def create(self) -> None:
        """Make the directories; harmless where they are."""
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)

    def save(self, record: RunRecord) -> None:
        """Write `run.json`."""
        write_atomically(self.path / "run.json", msgspec.json.encode(record))

    def load(self) -> RunRecord | None:
        """Read `run.json`; None if there is none. Raises `msgspec.DecodeError` if it is damaged."""
        return read(self.path / "run.json", RunRecord)

    def started(self) -> Started | None:
        """Return what the shim said about the start, if it has."""
        return read(self.path / "started.json", Started)

    def exit(self) -> Exit | None:
        """Return what the shim said about the end, if it has."""
        return read(self.path / "exit.json", Exit)

    def said(self) -> Said | None:
        """Return how the program says that the run ends, if it does."""
        try:
            return read(self.outcome, Said)
        except msgspec.DecodeError:  # it is the program's to write
            logger.warning("%s cannot be read", self.outcome)
            return None

    def write_commands(self, commands: Sequence[Command]) -> None:
        """Write `commands.json`."""
        write_atomically(self.path / "commands.json", msgspec.json.encode(commands))

    def write_exit(self, exit_: Exit) -> None:
        """Write `exit.json` in the shim's stead: there was nothing for it to run."""
        write_atomically(self.path / "exit.json", msgspec.json.encode(exit_))

    def order_kill(self, kill: Kill) -> None:
        """Write the grace where the shim looks for it."""
        content: dict[str, Any] = {"grace_seconds": kill.grace_seconds}
        write_atomically(self.path / "kill.json", msgspec.json.encode(content))

    def shim_lives(self) -> bool:
        """Say whether a shim holds the lock."""
        try:
            fd = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def tail(self, path: Path, limit_bytes: int) -> str:
        """Return the end of an output file."""
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit_bytes))
                return file.read(limit_bytes).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def forget(self) -> None:
        """Remove everything but what the program itself left in its directory, the record first."""
        kept = {"work"} if any(self.work.glob("*")) else set()
        for path in sorted(self.path.iterdir(), key=lambda path: path.name != "run.json"):
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not kept:
            self.path.rmdir()


def prune(root: Path, keep: int) -> None:
    """Remove the directories of forgotten runs, but for the `keep` youngest and those of the last minute."""
    forgotten = [path for path in root.iterdir() if path.is_dir() and not (path / "run.json").exists()]
    ages = {path: time.time() - path.stat().st_mtime for path in forgotten}
    for path in sorted(forgotten, key=ages.__getitem__)[keep:]:
        if ages[path] > FRESH_SECONDS:  # a fresh one may be about to get its record
            try:
                shutil.rmtree(path)
            except OSError as error:
                logger.warning("%s cannot be removed: %s", path, error)


def read(path: Path, kind: type[T]) -> T | None:
    """Read a JSON file; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that after any crash it is the old one or the new one, readable by its owner only."""
    temporary = path.with_name(f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
