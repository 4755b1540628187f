"""What carries a run's data to the service: buffer → batcher → outbox → sender, and the heartbeat."""

import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from tachograph import _settings
from tachograph._batcher import Batcher
from tachograph._buffer import Buffer
from tachograph._errors import Error, Problem
from tachograph._frames import JSON, Batch, Header, Numbers, Request
from tachograph._heartbeat import Heartbeat
from tachograph._http import Transport, repeat, transient
from tachograph._outbox import Left, Outbox
from tachograph._sender import LOCKED_OUT, Sender
from tachograph._spool import SUFFIX, Spool
from tachograph._types import Json

log = logging.getLogger("tachograph")

BUFFER_BYTES: Final = 32 * 1024 * 1024
OUTBOX_BYTES: Final = 32 * 1024 * 1024
SPOOL_BYTES: Final = 8 * 1024 * 1024 * 1024
END_SECONDS: Final = 3.0
"""Kept back from a finish's time for telling the end itself, however much data is still waiting."""


_journals: Final = itertools.count(1)


class Attempt(NamedTuple):
    """Which process writes: its batches are keyed (run, epoch, source, number)."""

    run_id: str
    epoch: int
    source: str


class Delivery(NamedTuple):
    """What became of the data that was logged; `kept` is the file with the rest, for `tachograph.sync`."""

    complete: bool
    points_delivered: int
    lines_delivered: int
    points_dropped: int
    lines_dropped: int
    points_left: int
    lines_left: int
    kept: Path | None


class Recorder:
    """The background side of one run's attempt."""

    def __init__(
        self,
        transport: Transport,
        attempt: Attempt,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        outbox_bytes: int = OUTBOX_BYTES,
        spool_bytes: int = SPOOL_BYTES,
    ) -> None:
        self.buffer: Final = Buffer(buffer_bytes)
        self._transport = transport
        self._attempt = attempt
        self._spool_directory = _settings.spool_directory()
        self._outbox = Outbox(self._open_spool, memory_bytes=outbox_bytes, disk_bytes=spool_bytes)
        self._batcher = Batcher(self.buffer, self._outbox, *attempt)
        self._sender = Sender(transport, self._outbox)
        self._heartbeat: Heartbeat | None = None

    @property
    def halted(self) -> Problem | None:
        """Why nothing more is sent."""
        return self._sender.halted

    def start(self) -> None:
        """Begin to send."""
        self._batcher.start()
        self._sender.start()

    def beat(self, period_seconds: float, on_stop: Callable[[str], None]) -> None:
        """Begin to beat; `on_stop` hears from another thread that the process should end."""

        def on_end(problem: Problem) -> None:
            self._sender.halt(problem)
            if problem.state == "killed":
                on_stop("killed")

        run_id, epoch, _ = self._attempt
        self._heartbeat = Heartbeat(self._transport, run_id, epoch, period_seconds, on_stop=on_stop, on_end=on_end)
        self._heartbeat.start()

    def abandon(self) -> None:
        """Let go of the journal: this is a child process, and it is the parent's."""
        self._outbox.abandon()

    def close(self, end: Json | None, seconds: float) -> Delivery:
        """Deliver what is left, then `end` (the body of a finish, without `last_seq`), within `seconds`.

        What cannot be delivered in time is kept on disk. Does not raise for the network's sake.
        """
        deadline = time.monotonic() + seconds
        kept = None
        ended = False
        try:
            self._batcher.close(deadline)
            if self._batcher.best is not None and (best := self._batcher.best.summary()):
                self._put("PATCH", "", {"summary": best})
            self._sender.hurry(deadline - (END_SECONDS if end is not None else 0.0))
            self._outbox.wait_until_empty(deadline - (END_SECONDS if end is not None else 0.0))
            ended = end is None or self._tell_end(end, deadline)
        finally:
            if self._heartbeat is not None:
                self._heartbeat.stop()
            if end is not None and not ended and not self._outbox.refusing:
                self._put("POST", "/finish", self._with_last_seq(end))
            left = self._outbox.left()
            self._outbox.close()
            kept = self._outbox.keep()
            if left.requests:
                self._say_what_is_left(left, kept)
            self._transport.close()
        return self._delivery(left, kept, ended=ended)

    def _tell_end(self, end: Json, deadline: float) -> bool:
        if self.halted is not None:
            return not isinstance(self.halted, LOCKED_OUT)
        content = msgspec.json.encode(self._with_last_seq(end))
        headers = {"Content-Type": JSON, "Idempotency-Key": self._key("finish")}
        try:
            repeat(
                lambda timeout: self._transport.send("POST", self._path("/finish"), content, headers, timeout),
                for_seconds=max(0.1, deadline - time.monotonic()),
                attempt_seconds=END_SECONDS,
            )
        except Error as error:
            if transient(error):
                return False
            log.warning("tachograph: the run's end was not taken: %s", error)
        return True

    def _with_last_seq(self, end: Json) -> Json:
        return {**end, "last_seq": {self._attempt.source: self._batcher.last_seq}}

    def _put(self, method: str, path: str, body: Json) -> None:
        request = Request(method, self._path(path), self._key(path or "best"), msgspec.json.encode(body), JSON)
        self._outbox.put(Batch(0, Numbers(), [request]))

    def _path(self, path: str) -> str:
        return f"/api/v1/runs/{quote(self._attempt.run_id, safe='')}{path}"

    def _key(self, what: str) -> str:
        run_id, epoch, source = self._attempt
        return f"{run_id}/{epoch}/{source}/{what.strip('/')}"

    def _delivery(self, left: Left, kept: Path | None, *, ended: bool) -> Delivery:
        buffer, batcher, sender, outbox = self.buffer, self._batcher, self._sender, self._outbox
        points = buffer.points_dropped + batcher.points_refused + sender.points_refused + outbox.points_lost
        lines = buffer.lines_dropped + batcher.lines_refused + sender.lines_refused + outbox.lines_lost
        if points or lines:
            log.warning("tachograph: %d points and %d log lines were dropped", points, lines)
        complete = ended and not (left.requests or points or lines)
        return Delivery(
            complete,
            sender.points_delivered,
            sender.lines_delivered,
            points,
            lines,
            left.points,
            left.lines,
            kept,
        )

    def _say_what_is_left(self, left: Left, kept: Path | None) -> None:
        where = f"kept in {kept}, tachograph.sync() delivers it" if kept else "lost"
        log.warning("tachograph: %d requests with %d points and %d log lines were not delivered: %s", *left, where)

    def _open_spool(self) -> Spool:
        run_id, epoch, source = self._attempt
        name = f"{run_id}-{epoch}-{source}-{os.getpid()}-{next(_journals)}{SUFFIX}"
        header = Header(url=self._transport.url, run_id=run_id, epoch=epoch, source=source)
        return Spool(self._spool_directory / name, header)
