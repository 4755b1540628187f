"""Requests on their way to the service, in order: each in the journal, the first of them in memory too."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tachograph._frames import Batch, Numbers, Piece, Request, decode, encode
from tachograph._spool import Spool

log = logging.getLogger("tachograph")


class Left(NamedTuple):
    """What was not delivered."""

    requests: int
    points: int
    lines: int


class Outbox:
    """A bounded queue with one writer and one reader.

    `open_spool` makes the journal's file when it is first needed. What the disk does not take waits in memory
    alone, and is lost if the process is killed, which is said; what fits neither is refused by `put`, which is for
    the caller to count.
    """

    def __init__(self, open_spool: Callable[[], Spool], *, memory_bytes: int, disk_bytes: int) -> None:
        self._open_spool = open_spool
        self._memory_limit: Final = memory_bytes
        self._disk_limit: Final = disk_bytes
        self._queue: deque[tuple[Request, int | None]] = deque()
        """Requests in memory, and the place of their batch in the journal."""
        self._memory_bytes = 0
        self._spool: Spool | None = None
        self._pieces: deque[tuple[int, int]] = deque()
        """The numbers and places of the pieces that no batch covers."""
        self._unread = 0
        """Requests that are in the journal alone, from the place `_unread_from` on."""
        self._unread_from = 0
        self._changed = threading.Condition()
        self._closed = False
        self._points = self._lines = 0
        self._said_behind = self._said_unwritten = False
        self.refusing = False
        self.points_lost = 0
        self.lines_lost = 0

    def note(self, pieces: Sequence[Piece]) -> None:
        """Write to the journal what no request was made of yet."""
        contents = [encode(piece) for piece in pieces]
        with self._changed:
            places = [] if self.refusing else self._written(contents)
            self._pieces.extend((piece.number, place) for piece, place in zip(pieces, places, strict=False))

    def put(self, batch: Batch) -> bool:
        """Add requests at the end, in place of the pieces they were made of; False where there is no room for them."""
        size = sum(request.size for request in batch.requests)
        content = encode(batch)
        with self._changed:
            if self.refusing:
                return False
            (place,) = self._written([content]) or (None,)
            if not self._unread and self._memory_bytes + size <= self._memory_limit:
                self._queue.extend((request, place) for request in batch.requests)
                self._memory_bytes += size
                stored = True
            else:
                stored = self._leave_on_disk(place, len(batch.requests))
            while self._pieces and self._pieces[0][0] <= batch.through:
                self._pieces.popleft()
            if stored:
                self._points += sum(request.points for request in batch.requests)
                self._lines += sum(request.lines for request in batch.requests)
            if place is None:
                self._forget()  # else the pieces would count for more than the batch that is in memory alone
            self._changed.notify_all()
            return stored

    def head(self) -> Request | None:
        """Return the first request, waiting for one; None once the outbox is closed."""
        with self._changed:
            while not self._closed:
                if not self._queue:
                    self._load()
                if self._queue:
                    return self._queue[0][0]
                self._changed.wait()
            return None

    def drop(self, request: Request) -> None:
        """Remove the first request: it was delivered, or refused for good."""
        with self._changed:
            if self._queue and self._queue[0][0] is request:
                self._remove()
                self._forget()
            self._changed.notify_all()

    def discard(self) -> Left:
        """Remove everything, and refuse what comes later."""
        with self._changed:
            self.refusing = True
            left = self._left()
            self._queue.clear()
            self._pieces.clear()
            self._memory_bytes = self._unread = self._points = self._lines = 0
            self._forget()
            self._changed.notify_all()
            return left

    def left(self) -> Left:
        """Return what waits."""
        with self._changed:
            return self._left()

    def wait_until_empty(self, deadline: float) -> bool:
        """Wait until everything is gone or `time.monotonic()` passes `deadline`; True if it is gone."""
        with self._changed:
            return (
                self._changed.wait_for(
                    lambda: self._closed or not self._left().requests, max(0.0, deadline - time.monotonic())
                )
                and not self._left().requests
            )

    def close(self) -> None:
        """Let the reader go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def keep(self) -> Path | None:
        """Leave what waits in the journal, return its path; None if nothing waits or the disk refuses."""
        with self._changed:
            unwritten = [request for request, place in self._queue if place is None]
            if unwritten and not self._written([encode(Batch(0, Numbers(), unwritten))]):
                log.warning("tachograph: %d undelivered requests could not be kept on disk", len(unwritten))
            spool, self._spool = self._spool, None
            if spool is None:
                return None
            waiting = bool(self._left().requests or self._pieces) and spool.start < spool.end
            spool.close(keep=waiting)
            return spool.path if waiting else None

    def abandon(self) -> None:
        """Let go of the journal in a child process; takes no lock, for nobody is there to release it."""
        if self._spool is not None:
            self._spool.abandon()

    def _written(self, contents: Sequence[bytes]) -> list[int]:
        """Write frames, and return their places; empty where the disk takes none."""
        try:
            if self._spool is None:
                self._spool = self._open_spool()
            size = sum(map(len, contents))
            if self._spool.size_bytes + size > self._disk_limit:
                self._say_unwritten(f"{self._spool.path} has grown to its limit of {self._disk_limit:,} bytes")
                return []
            places = self._spool.append(contents)
        except OSError as error:
            self._say_unwritten(error)
            return []
        self._said_unwritten = False
        return places

    def _say_unwritten(self, why: object) -> None:
        if not self._said_unwritten:
            self._said_unwritten = True
            log.warning("tachograph: cannot write to disk, what waits is lost if this process is killed: %s", why)

    def _leave_on_disk(self, place: int | None, requests: int) -> bool:
        if place is None:
            return False
        assert self._spool is not None
        if not self._said_behind:
            self._said_behind = True
            log.warning("tachograph: the service is behind; data waits in %s", self._spool.path)
        if not self._unread:
            self._unread_from = place
        self._unread += requests
        return True

    def _load(self) -> None:
        """Read the next batch that is on disk alone."""
        if not self._unread or self._spool is None:
            return
        place = self._unread_from
        try:
            content, after = self._spool.read(place)
            while not isinstance(frame := decode(content), Batch):
                place = after
                content, after = self._spool.read(place)
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("tachograph: cannot read the journal back, %d requests lost: %s", self._unread, error)
            self._lose()
            self._changed.notify_all()
            return
        self._unread_from = after
        self._unread -= len(frame.requests)
        self._queue.extend((request, place) for request in frame.requests)
        self._memory_bytes += sum(request.size for request in frame.requests)

    def _forget(self) -> None:
        """Give back what is in front of everything that is still needed."""
        if self._spool is None:
            return
        places = [place for _, place in self._queue if place is not None][:1]
        places += [self._unread_from] if self._unread else []
        places += [self._pieces[0][1]] if self._pieces else []
        try:
            self._spool.forget(min(places, default=self._spool.end))
        except OSError as error:
            log.debug("tachograph: the journal could not be shortened: %s", error)

    def _remove(self) -> None:
        request, _ = self._queue.popleft()
        self._memory_bytes -= request.size
        self._points -= request.points
        self._lines -= request.lines

    def _lose(self) -> None:
        points = sum(request.points for request, _ in self._queue)
        lines = sum(request.lines for request, _ in self._queue)
        self.points_lost += self._points - points
        self.lines_lost += self._lines - lines
        self._points, self._lines, self._unread = points, lines, 0

    def _left(self) -> Left:
        return Left(len(self._queue) + self._unread, self._points, self._lines)
