"""The program's output files -> batches of log lines, each line sent exactly once and none lost.

The files are the buffer: while the server is away nothing is read ahead of it. Before a batch is sent it is written
down whole (`ship.json`: its seq, its lines, and where reading goes on), so that after any crash it is repeated byte
for byte, and the server, which keys it by (run, epoch, source, seq), stores it once.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from workers.gpu.lines import Line, LineSplitter
from workers.gpu.records import RunDirectory, now_us, read, write_atomically

logger = logging.getLogger(__name__)

BATCH_LINES: Final = 1000
BATCH_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 64 * 1024
POLL_SECONDS: Final = 0.2
STATE: Final = "ship.json"


class ShippedLine(msgspec.Struct, frozen=True):
    """A line as it is sent. `time_us` is when its file was last written to as it was read: never earlier than when
    the line was written, and right even for what was written while no agent ran."""

    time_us: int
    stream: str
    text: str


class Batch(msgspec.Struct, frozen=True):
    """`ship.json`: the last batch that was or may have been sent, and the offset behind it in each file."""

    seq: int
    lines: tuple[ShippedLine, ...]
    offsets: dict[str, int]


class Tail:
    """Reads one file from an offset on."""

    def __init__(self, stream: str, path: Path, offset: int) -> None:
        self.stream = stream
        self.shipped = offset
        self._path = path
        self._read = offset
        self._splitter = LineSplitter(offset)
        self._waiting: deque[tuple[int, Line]] = deque()
        self._at_end = False

    def fill(self, *, ended: bool) -> bool:
        """Read a chunk, unless lines are waiting; say whether there are any. `ended`: no more will be written."""
        if not self._waiting:
            chunk, time_us = self._chunk()
            if chunk:
                lines = self._splitter.feed(chunk, time.monotonic())
            elif ended and not self._at_end:
                self._at_end = True
                lines = self._splitter.finish()
            else:
                return False
            self._waiting.extend((time_us, line) for line in lines)
            return bool(lines) or bool(chunk)
        return True

    def take(self, lines: list[ShippedLine], room_bytes: int) -> int:
        """Move waiting lines to the batch as long as there is room; return the room that is left."""
        while self._waiting and len(lines) < BATCH_LINES and room_bytes > 0:
            time_us, line = self._waiting.popleft()
            lines.append(ShippedLine(time_us, self.stream, line.text))
            room_bytes -= len(line.text.encode()) + 32
            self.shipped = line.end
        return room_bytes

    def _chunk(self) -> tuple[bytes, int]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                chunk = file.read(CHUNK_BYTES)
                time_us = os.fstat(file.fileno()).st_mtime_ns // 1000
        except FileNotFoundError:
            return b"", 0
        self._read += len(chunk)
        return chunk, time_us


class LogShipper:
    """Sends what a run prints. `send` returns once a batch is stored, or raises `Refused`."""

    def __init__(self, directory: RunDirectory, send: Callable[[Batch], Awaitable[None]]) -> None:
        self._send = send
        self._state = directory.path / STATE
        last = read(self._state, Batch)
        self._unsure = last is not None
        self._forgetful = False  # the last batch could not be written down, and the run's log says so
        self._last = last or Batch(0, (), {})
        offsets = self._last.offsets
        self._tails = [
            Tail(stream, path, offsets.get(stream, 0))
            for stream, path in (("stdout", directory.stdout), ("stderr", directory.stderr))
        ]

    async def run(self, ended: asyncio.Event) -> None:
        """Ship until the program has ended and its last byte is stored; raises what `send` raises."""
        if self._unsure:
            await self._send(self._last)
            self._unsure = False
        while True:
            over = ended.is_set()
            batch, more = await asyncio.to_thread(self._next, ended=over)
            if batch is not None:
                self._last = batch
                await self._send(batch)
            elif over and not more:
                return
            elif not more:
                await _wait(ended, POLL_SECONDS)

    def _next(self, *, ended: bool) -> tuple[Batch | None, bool]:
        """Read the next batch and write it down; say besides whether there was anything to read at all."""
        lines: list[ShippedLine] = []
        room, more, progress = BATCH_BYTES, False, True
        self._tails.reverse()  # so that a flood on one stream never keeps the other waiting
        while progress and room > 0 and len(lines) < BATCH_LINES:
            progress = False
            for tail in self._tails:
                if tail.fill(ended=ended):
                    more = progress = True
                    room = tail.take(lines, room)
        if not lines:
            return None, more
        batch = Batch(self._last.seq + 1, tuple(lines), {tail.stream: tail.shipped for tail in self._tails})
        try:
            write_atomically(self._state, msgspec.json.encode(batch))
            self._forgetful = False
        except OSError as error:
            # The server can still take it. Only a crash before the next write could repeat these lines.
            if not self._forgetful:
                logger.exception("%s cannot be written, lines are sent all the same", self._state)
                said = ShippedLine(now_us(), "log", f"the worker's disk takes no more: {error.strerror}")
                batch = msgspec.structs.replace(batch, lines=(*batch.lines, said))
            self._forgetful = True
        return batch, True


def last_seq(directory: RunDirectory) -> int:
    """Return the seq of the run's last batch, 0 if there was none."""
    last = read(directory.path / STATE, Batch)
    return 0 if last is None else last.seq


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for the event, at most for `seconds`; once it is set, for none."""
    if event.is_set():
        return
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
