"""The thread that turns what was logged into requests with a number each."""

import logging
import math
import threading
import time
from typing import Final

import msgspec

from tachograph._buffer import Buffer, Taken
from tachograph._encoding import LogsBody, MetricsBody, Rows, encode, line_batches, metric_bodies
from tachograph._outbox import Outbox
from tachograph._spool import JSON, MSGPACK, Request
from tachograph._types import Json

log = logging.getLogger("tachograph")

QUICK_SECONDS: Final = 0.02
STEADY_SECONDS: Final = 0.5
BURST: Final = 20
LOCK_SECONDS: Final = 0.05


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


class Best:
    """The best value of the primary metric among the points that this process logged."""

    def __init__(self, name: str, mode: str) -> None:
        self.name: Final = name
        self.mode: Final = mode
        self.value: float | None = None
        self.step = 0

    def see(self, chunk: list[Rows]) -> None:
        """Take a chunk's points into account; NaN is never the best."""
        choose = max if self.mode == "max" else min
        for rows in chunk:
            if self.name not in rows.names:
                continue
            values = rows.values[rows.names.index(self.name) :: len(rows.names)]
            seen = [(value, step) for value, step in zip(values, rows.steps, strict=True) if not math.isnan(value)]
            if not seen:
                continue
            value, step = choose(seen, key=lambda point: point[0])
            if self.value is None or choose(value, self.value) != self.value:
                self.value, self.step = value, step

    def summary(self) -> Json:
        """Return what goes into the run's summary; empty without a point."""
        if self.value is None:
            return {}
        value = self.value if math.isfinite(self.value) else str(self.value).replace("inf", "Infinity")
        return {
            "best_metric_name": self.name,
            "best_metric_mode": self.mode,
            "best_metric_value": value,
            "best_metric_step": self.step,
        }


class Batcher:
    """Moves what `buffer` holds into `outbox`; needs no network, so it always gets on."""

    def __init__(self, buffer: Buffer, outbox: Outbox, run_id: str, epoch: int, source: str) -> None:
        self.last_seq = 0
        self.points_refused = 0
        self.lines_refused = 0
        self.best: Best | None = None
        self._buffer = buffer
        self._outbox = outbox
        self._path = f"/api/v1/runs/{run_id}"
        self._run_id = run_id
        self._epoch = epoch
        self._source = source
        self._closing = False
        self._rest: Taken | None = None
        self._changes = 0
        self._said_dropped = False
        self._nonce = f"{run_id}/{epoch}/{source}"
        self._thread = threading.Thread(target=self._loop, name="tachograph-batcher", daemon=True)

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

    def step(self, taken: Taken) -> None:
        """Turn what was logged into requests."""
        for patch in filter(None, taken.patches):
            self._change("PATCH", "", patch)
        if taken.primary_metric is not None:
            self._change("POST", "/primary-metric", taken.primary_metric)
            self.best = Best(taken.primary_metric["name"], taken.primary_metric["mode"])
        self._metrics(taken)
        for lines in line_batches(taken.lines):
            body = encode(LogsBody(self._epoch, self._source, self.last_seq + 1, lines))
            if not self._telemetry("/logs", body, lines=len(lines)):
                self.lines_refused += len(lines)
        if taken.progress is not None:
            self._change("POST", "/progress", {"epoch": self._epoch, **taken.progress})
        self._say_what_was_dropped()

    def _metrics(self, taken: Taken) -> None:
        for chunk in taken.chunks:
            if self.best is not None:
                self.best.see(chunk)
            for points, series, stage in metric_bodies(chunk, pause=not taken.crowded):
                body = encode(MetricsBody(self._epoch, self._source, self.last_seq + 1, series, stage))
                if not self._telemetry("/metrics", body, points=points):
                    self.points_refused += points

    def _telemetry(self, path: str, content: bytes, *, points: int = 0, lines: int = 0) -> bool:
        # The number is taken only by a batch that has a place to wait: a gap would look like a loss.
        key = f"{self._nonce}/{self.last_seq + 1}"
        if not self._outbox.put(Request("POST", self._path + path, key, content, MSGPACK, points, lines)):
            return False
        self.last_seq += 1
        return True

    def _change(self, method: str, path: str, body: Json) -> None:
        self._changes += 1
        key = f"{self._nonce}/change/{self._changes}"
        kept = self._outbox.put(Request(method, self._path + path, key, msgspec.json.encode(body), JSON))
        if not kept and not self._outbox.refusing:
            log.warning("tachograph: no room to keep %s; it is lost", ", ".join(body))

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

    def _loop(self) -> None:
        pace = Pace()
        while not self._closing:
            self._buffer.wake.wait()
            if not self._closing:
                self._buffer.urgent.wait(pace.seconds(time.monotonic()))
            taken = None
            # A program that finishes in a signal handler, in the middle of a `log`, keeps the lock until it is done.
            while taken is None and not self._closing:
                taken = self._buffer.take_soon(LOCK_SECONDS)
            if taken is not None:
                self.step(taken)
        if self._rest is not None:
            self.step(self._rest)
