"""The thread that writes what was logged to the journal, soon, and makes requests of it, at its own pace."""

import logging
import threading
import time
from collections import deque
from typing import Final

from tachograph._buffer import Buffer, Taken
from tachograph._encoding import MAX_POINTS
from tachograph._frames import Batch
from tachograph._outbox import Outbox
from tachograph._requests import Best, Logged, Requests, taken_apart

log = logging.getLogger("tachograph")

JOURNAL_SECONDS: Final = 0.05
"""How long what was logged stays in memory alone: a process that is killed loses no more."""

QUICK_SECONDS: Final = 0.02
STEADY_SECONDS: Final = 0.5
BURST: Final = 20
LOCK_SECONDS: Final = 0.05
BEHIND_POINTS: Final = 2_000_000
"""With so many points still to be encoded nothing more is taken; the buffer's own bound holds then."""


class Pace:
    """How long to let a batch grow: briefly after a pause, `STEADY_SECONDS` for a program that logs on and on.

    A token bucket: 20 quick batches, and two more a second. Every batch is one event of the ledger for ever.
    """

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at = 0.0

    def seconds(self, now: float) -> float:
        """Return how long the batch that begins at `now` may grow."""
        self._tokens = min(BURST, self._tokens + (now - self._at) / STEADY_SECONDS)
        self._at = now
        wait = max(QUICK_SECONDS, (1.0 - self._tokens) * STEADY_SECONDS)
        self._tokens -= 1.0
        return min(wait, STEADY_SECONDS)


class Batcher:
    """Moves what `buffer` holds into `outbox`; needs no network, so it always gets on."""

    def __init__(self, buffer: Buffer, outbox: Outbox, run_id: str, epoch: int, source: str) -> None:
        self.points_refused = 0
        self.lines_refused = 0
        self._buffer = buffer
        self._outbox = outbox
        self._requests = Requests(run_id, epoch, source)
        self._pieces: deque[Logged] = deque()
        self._points = 0
        self._number = 0
        self._taken_at = 0.0
        self._crowded = False
        self._closing = False
        self._rest: Taken | None = None
        self._said_dropped = False
        self._thread = threading.Thread(target=self._loop, name="tachograph-batcher", daemon=True)

    @property
    def last_seq(self) -> int:
        """The number of the last batch of telemetry."""
        return self._requests.last.seq

    @property
    def best(self) -> Best | None:
        """The best point, where the program named its primary metric."""
        return self._requests.best

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, deadline: float) -> bool:
        """Turn what is left into requests; False where `time.monotonic()` passed `deadline` before that."""
        self._rest = self._buffer.close()
        self._closing = True
        self._buffer.wake.set()
        self._buffer.urgent.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _loop(self) -> None:
        pace = Pace()
        while not self._closing:
            self._buffer.wake.wait()
            self._grow(time.monotonic() + pace.seconds(time.monotonic()))
            self._put_all()
        if self._rest is not None:
            self._note(self._rest)
            self._put_all()

    def _grow(self, due: float) -> None:
        """Take what comes until then, or until it is a whole batch."""
        while not self._closing and self._points < MAX_POINTS and (rest := due - time.monotonic()) > 0:
            self._buffer.urgent.wait(min(rest, JOURNAL_SECONDS))
            self._take()

    def _take(self) -> None:
        """Write to the journal what came since the last time."""
        if self._closing or self._points > BEHIND_POINTS:
            return
        # A program that finishes in a signal handler, in the middle of a `log`, keeps the lock until it is done.
        taken = self._buffer.take_soon(LOCK_SECONDS)
        if taken is not None:
            self._taken_at = time.monotonic()
            self._note(taken)

    def _note(self, taken: Taken) -> None:
        pieces = taken_apart(self._number + 1, taken.chunks or [[]])
        pieces[-1] = pieces[-1]._replace(
            lines=taken.lines,
            patches=[patch for patch in taken.patches if patch],
            primary_metric=taken.primary_metric,
            progress=taken.progress,
        )
        if not any(pieces[-1][1:]):
            pieces.pop()
        if pieces:
            self._number = pieces[-1].number
            self._crowded = taken.crowded
            self._points += sum(piece.points for piece in pieces)
            self._pieces += pieces
            self._outbox.note([piece.piece(self._requests.last) for piece in pieces])
        self._say_what_was_dropped()

    def _put_all(self) -> None:
        """Make requests of every piece; in between, what comes meanwhile is written to the journal in time."""
        while self._pieces:
            self._put()
            if time.monotonic() - self._taken_at > JOURNAL_SECONDS:
                self._take()

    def _put(self) -> None:
        pieces = [self._pieces.popleft()]
        points = pieces[0].points
        while self._pieces and points + self._pieces[0].points <= MAX_POINTS:
            pieces.append(self._pieces.popleft())
            points += pieces[-1].points
        self._points -= points
        before = self._requests.last
        requests = self._requests.made_of(pieces, pause=not self._crowded)
        if self._outbox.put(Batch(pieces[-1].number, self._requests.last, requests)):
            return
        # Numbers are taken only by batches that have a place to wait: a gap would look like a loss.
        self._requests.last = before
        self.points_refused += points
        self.lines_refused += sum(len(piece.lines) for piece in pieces)
        changes = {name for piece in pieces for patch in piece.patches for name in patch}
        if changes and not self._outbox.refusing:
            log.warning("tachograph: no room to keep %s; it is lost", ", ".join(sorted(changes)))
        self._say_what_was_dropped()

    def _say_what_was_dropped(self) -> None:
        points = self._buffer.points_dropped + self.points_refused
        lines = self._buffer.lines_dropped + self.lines_refused
        if (points or lines) and not self._said_dropped and not self._outbox.refusing:
            self._said_dropped = True
            log.warning(
                "tachograph: memory and disk are full, data is being dropped (%d points, %d lines so far)",
                points,
                lines,
            )
