"""Requests on their way to the service, in order: the first in memory, the overflow in a spool file."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tachograph._spool import Request, Spool

log = logging.getLogger("tachograph")


class Left(NamedTuple):
    """What was not delivered."""

    requests: int
    points: int
    lines: int


class Outbox:
    """A bounded queue with one writer and one reader.

    `open_spool` makes the spool file when it is first needed. What fits neither memory nor disk is refused by
    `put`, which is for the caller to count.
    """

    def __init__(self, open_spool: Callable[[], Spool], *, memory_bytes: int, disk_bytes: int) -> None:
        self._open_spool = open_spool
        self._memory_limit: Final = memory_bytes
        self._disk_limit: Final = disk_bytes
        self._queue: deque[Request] = deque()
        self._memory_bytes = 0
        self._spool: Spool | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._points = self._lines = 0
        self.refusing = False
        self.points_lost = 0
        self.lines_lost = 0

    def put(self, request: Request) -> bool:
        """Add a request at the end; False where there is no room for it."""
        with self._changed:
            if self.refusing:
                return False
            if not self._on_disk() and self._memory_bytes + request.size <= self._memory_limit:
                self._queue.append(request)
                self._memory_bytes += request.size
            elif not self._spill(request):
                return False
            self._points += request.points
            self._lines += request.lines
            self._changed.notify_all()
            return True

    def head(self) -> Request | None:
        """Return the first request, waiting for one; None once the outbox is closed."""
        with self._changed:
            while not self._closed:
                if not self._queue:
                    self._load()
                if self._queue:
                    return self._queue[0]
                self._changed.wait()
            return None

    def drop(self, request: Request) -> None:
        """Remove the first request: it was delivered, or refused for good."""
        with self._changed:
            if self._queue and self._queue[0] is request:
                self._remove()
            self._changed.notify_all()

    def discard(self) -> Left:
        """Remove everything, and refuse what comes later."""
        with self._changed:
            self.refusing = True
            left = self._left()
            self._load()
            while self._queue:
                self._remove()
                if not self._queue:
                    self._load()
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
        """Write what waits to one spool file, return its path; None if nothing waits or the disk refuses."""
        with self._changed:
            spool, self._spool = self._spool, None
            try:
                if self._queue:
                    # What is in memory precedes what is on disk, so the order needs a new file.
                    kept = self._open_spool()
                    for request in self._queue:
                        kept.append(request)
                    while spool is not None and (request_on_disk := spool.take()) is not None:
                        kept.append(request_on_disk)
                    if spool is not None:
                        spool.close()
                    spool = kept
                if spool is None:
                    return None
                waiting = spool.waiting
                spool.close()
            except OSError as error:
                log.warning("tachograph: undelivered data could not be kept on disk: %s", error)
                return None
            return spool.path if waiting else None

    def _on_disk(self) -> bool:
        return self._spool is not None and self._spool.waiting > 0

    def _spill(self, request: Request) -> bool:
        try:
            if self._spool is None:
                self._spool = self._open_spool()
                log.warning("tachograph: the service is behind; data waits in %s", self._spool.path)
            if self._spool.size_bytes + request.size > self._disk_limit:
                return False
            self._spool.append(request)
        except OSError as error:
            log.warning("tachograph: cannot spool to disk: %s", error)
            return False
        return True

    def _load(self) -> None:
        if self._spool is None:
            return
        try:
            request = self._spool.take()
        except OSError as error:
            log.warning("tachograph: cannot read spooled data back, %d batches lost: %s", self._spool.waiting, error)
            self._spool.close()
            self._spool = None
            self._lose()
            self._changed.notify_all()
            return
        if request is not None:
            self._queue.append(request)
            self._memory_bytes += request.size

    def _remove(self) -> None:
        request = self._queue.popleft()
        self._memory_bytes -= request.size
        self._points -= request.points
        self._lines -= request.lines

    def _lose(self) -> None:
        points = sum(request.points for request in self._queue)
        lines = sum(request.lines for request in self._queue)
        self.points_lost += self._points - points
        self.lines_lost += self._lines - lines
        self._points, self._lines = points, lines

    def _left(self) -> Left:
        on_disk = self._spool.waiting if self._spool is not None else 0
        return Left(len(self._queue) + on_disk, self._points, self._lines)
