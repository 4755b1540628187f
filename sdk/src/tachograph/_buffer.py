"""What the program has logged and the batcher has not taken yet.

The calling thread appends to typed arrays: no object outlives a call, so nothing here feeds the garbage
collector. The lock is held for an append or a swap, never for encoding or I/O, and it is reentrant: a signal
handler may finish the run in the middle of a `log`.
"""

import contextlib
import operator
import threading
from collections.abc import Mapping
from time import time_ns
from typing import Any, Final, NamedTuple

from tachograph._encoding import MAX_POINTS, Line, Rows, add_patch
from tachograph._errors import RunFinished
from tachograph._types import Json

MAX_NAME_BYTES: Final = 250
ROOM_SECONDS: Final = 0.2
"""How long `log` waits for the batcher once the buffer is full; then points are dropped, and counted."""


FINISHED: Final = "the run was finished meanwhile"


class Taken(NamedTuple):
    """Everything that was in the buffer: chunks of columns, lines, and what to change in the run."""

    chunks: list[list[Rows]]
    lines: list[Line]
    patches: list[Json]
    primary_metric: Json | None
    progress: Json | None
    crowded: bool


class Flag:
    """Wakes one waiter; setting it is a single step, so a signal handler may come before or after, not within."""

    def __init__(self) -> None:
        self._unset = threading.Lock()
        self._unset.acquire()

    def set(self) -> None:
        """Wake the waiter, now or when it waits next."""
        with contextlib.suppress(RuntimeError):
            self._unset.release()

    def wait(self, seconds: float = -1) -> bool:
        """Wait until it is set, and unset it; False after so many seconds."""
        return self._unset.acquire(timeout=seconds)

    def clear(self) -> None:
        """Unset it."""
        self._unset.acquire(blocking=False)

    def is_set(self) -> bool:
        """Whether nobody has waited since it was set."""
        return not self._unset.locked()


class Buffer:
    """Points, lines and changes of one run; safe for many threads.

    At most about `bound_bytes` wait here. `wake` is set when there is something to take, `urgent` when there
    is a whole batch.
    """

    def __init__(self, bound_bytes: int) -> None:
        self.wake: Final = Flag()
        self.urgent: Final = Flag()
        self.step = 0
        self.points_logged = 0
        self.points_dropped = 0
        self.lines_dropped = 0
        self._bound_bytes = bound_bytes
        self._room = threading.Event()
        self._lock = threading.RLock()
        self._closed = False
        self._groups: dict[tuple[Any, ...], Rows] = {}
        self._points = 0
        self._sealed: list[list[Rows]] = []
        self._sealed_bytes = 0
        self._lines: list[Line] = []
        self._line_bytes = 0
        self._patches: list[Json] = [{}]
        self._primary_metric: Json | None = None
        self._progress: Json | None = None
        self._names: set[str] = set()

    def add(self, data: Mapping[str, Any], step: int | None, stage: str | None) -> None:
        """Append one row; raises `TypeError` naming a value that is no number, and then nothing is stored."""
        names = tuple(data)
        key = names if stage is None else (names, stage)
        full = False
        with self._lock:
            if self._closed:
                raise RunFinished(FINISHED)
            rows = self._groups.get(key) or self._open(key, names, stage)
            done = len(rows.times)
            number = self.step + 1 if step is None else step
            try:
                rows.values.extend(data.values())
                rows.steps.append(number)
                rows.times.append(time_ns() // 1000)
                if len(rows.values) != len(rows.times) * len(names):
                    raise RuntimeError("the dictionary changed while it was logged")  # noqa: TRY301 (undone below)
            except BaseException as error:
                del rows.values[done * len(names) :], rows.steps[done:], rows.times[done:]
                if isinstance(error, TypeError | ValueError | OverflowError):
                    raise _explained(data, number, error) from error
                raise
            self.step = number
            if not self._points:
                self.wake.set()
            self._points += len(names)
            if self._points >= MAX_POINTS:
                full = self._seal()
        if full:
            self._wait_for_room()

    def add_lines(self, stream: str, texts: list[str]) -> None:
        """Append log lines that share this moment."""
        now = time_ns() // 1000
        size = sum(map(len, texts)) + 100 * len(texts)
        if self._line_bytes + size > self._bound_bytes:
            self._room.clear()
            self.urgent.set()
            self._wait_for_room()
        with self._lock:
            if self._closed:
                raise RunFinished(FINISHED)
            if self._line_bytes + size > self._bound_bytes:
                self.lines_dropped += len(texts)
                return
            self._lines.extend(Line(now, stream, text) for text in texts)
            self._line_bytes += size
            self.wake.set()

    def change(self, field: str, patch: Mapping[str, Any]) -> None:
        """Merge into the run's `config` or `summary`."""
        with self._lock:
            if self._closed:
                raise RunFinished(FINISHED)
            add_patch(self._patches, {field: patch})
            self.wake.set()

    def replace(self, **fields: Any) -> None:
        """Set fields of the run: `tags`, `notes`, `alias`."""
        with self._lock:
            self._patches[-1].update(fields)
            self.wake.set()

    def set_primary_metric(self, name: str, mode: str) -> None:
        """Ask for the metric to compare by."""
        with self._lock:
            self._primary_metric = {"name": name, "mode": mode}
            self.wake.set()

    def set_progress(self, progress: Json) -> None:
        """Note how far the program is; only the newest of several is sent."""
        with self._lock:
            self._progress = progress
            self.wake.set()

    def close(self) -> Taken:
        """Take what is there, and refuse what comes later."""
        with self._lock:
            self._closed = True
            return self.take()

    def take(self) -> Taken:
        """Empty the buffer."""
        with self._lock:
            self.wake.clear()
            self.urgent.clear()
            crowded = self._sealed_bytes * 4 > self._bound_bytes
            chunks = self._sealed
            if self._points:
                chunks.append(list(self._groups.values()))
                self.points_logged += self._points
            taken = Taken(chunks, self._lines, self._patches, self._primary_metric, self._progress, crowded)
            self._sealed, self._sealed_bytes = [], 0
            self._groups, self._points = {}, 0
            self._lines, self._line_bytes = [], 0
            self._patches, self._primary_metric, self._progress = [{}], None, None
        self._room.set()
        return taken

    def take_soon(self, seconds: float) -> Taken | None:
        """Empty the buffer; None if another thread kept the lock for so many seconds."""
        if not self._lock.acquire(timeout=seconds):
            return None
        try:
            return self.take()
        finally:
            self._lock.release()

    def _open(self, key: tuple[Any, ...], names: tuple[str, ...], stage: str | None) -> Rows:
        if not names:
            raise ValueError("there is nothing to log")
        for name in names:
            if name not in self._names:
                self._names.add(checked_name(name, "a metric's name"))
        if stage is not None:
            checked_name(stage, "stage")
        rows = self._groups[key] = Rows(names, stage)
        return rows

    def _seal(self) -> bool:
        """Close the chunk; says whether the buffer is full."""
        self.urgent.set()
        self.points_logged += self._points
        self._sealed.append(list(self._groups.values()))
        self._sealed_bytes += self._points * 10
        self._groups, self._points = {}, 0
        if self._sealed_bytes <= self._bound_bytes:
            return False
        self._room.clear()
        return True

    def _wait_for_room(self) -> None:
        # Encoding is behind, which needs no network: a short wait gives it the processor.
        if self._room.wait(ROOM_SECONDS):
            return
        with self._lock:
            while self._sealed_bytes > self._bound_bytes:
                points = sum(len(rows.values) for rows in self._sealed.pop())
                self.points_dropped += points
                self._sealed_bytes -= points * 10


def step_number(step: Any) -> int:
    """Return an explicit step; raises `TypeError` for what is no integer."""
    try:
        return operator.index(step)
    except TypeError:
        raise TypeError(f"step must be an integer, not {step!r}") from None


def checked_name(name: Any, what: str) -> str:
    """Return a name that the service takes; raises `TypeError` and `ValueError` that say `what` it is."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, not {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} {name!r} is not valid Unicode") from error
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise ValueError(f"{what} must have no control characters, and {name!r} has")
    if not 0 < size <= MAX_NAME_BYTES:
        raise ValueError(f"{what} must have 1 to {MAX_NAME_BYTES} bytes, and {name[:40]!r} has {size}")
    return name


def _explained(data: Mapping[str, Any], step: int, error: Exception) -> Exception:
    for name, value in data.items():
        try:
            number = float(value) if not isinstance(value, str | bytes | bytearray) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None and type(value) is int:
            return ValueError(f"{name!r} must fit a float, and a number of {value.bit_length()} bits does not")
        if number is None:
            shape = getattr(value, "shape", None)
            kind = type(value).__qualname__ + (f" of shape {tuple(shape)}" if shape else "")
            return TypeError(f"{name!r} must be a number, not {kind}: {value!r:.80}")
    if not -(2**63) <= step < 2**63:
        return ValueError(f"step {step} does not fit 64 bits")
    return error
