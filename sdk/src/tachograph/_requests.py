"""Makes the requests of an attempt of what was logged, each with its number."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tachograph._encoding import (
    Line,
    LogsBody,
    MetricsBody,
    Rows,
    add_patch,
    encode,
    joined,
    line_batches,
    metric_bodies,
    whole,
)
from tachograph._frames import JSON, MSGPACK, Numbers, Piece, Request, packed, unpacked
from tachograph._types import Json


class Logged(NamedTuple):
    """What was logged in a moment, at most about a batch of points."""

    number: int
    rows: list[Rows]
    lines: Sequence[Line] = ()
    patches: Sequence[Json] = ()
    primary_metric: Json | None = None
    progress: Json | None = None

    @property
    def points(self) -> int:
        """How many points it has."""
        return sum(len(rows.values) for rows in self.rows)

    def piece(self, after: Numbers) -> Piece:
        """Return it as it is written to the journal."""
        columns = [packed(rows) for rows in self.rows]
        return Piece(self.number, after, columns, self.lines, self.patches, self.primary_metric, self.progress)


def logged(piece: Piece) -> Logged:
    """Return what a piece of the journal holds."""
    rows = [unpacked(columns) for columns in piece.columns]
    return Logged(piece.number, rows, piece.lines, piece.patches, piece.primary_metric, piece.progress)


class Best:
    """The best value of the primary metric among the points that this process logged."""

    def __init__(self, name: str, mode: str) -> None:
        self.name: Final = name
        self.mode: Final = mode
        self.value: float | None = None
        self.step = 0

    def see(self, chunk: Sequence[Rows]) -> None:
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


class Requests:
    """The requests of one attempt; `last` are the numbers given out so far."""

    def __init__(self, run_id: str, epoch: int, source: str, last: Numbers | None = None) -> None:
        self.last = last or Numbers()
        self.best: Best | None = None
        self._path = f"/api/v1/runs/{run_id}"
        self._epoch = epoch
        self._source = source
        self._nonce = f"{run_id}/{epoch}/{source}"

    def made_of(self, pieces: Sequence[Logged], *, pause: bool = True) -> list[Request]:
        """Return what is sent for some pieces together. With `pause`, other threads run in between."""
        requests: list[Request] = []
        patches: list[Json] = [{}]
        for piece in pieces:
            for patch in piece.patches:
                add_patch(patches, patch)
        requests += [self._change("PATCH", "", patch) for patch in patches if patch]
        if named := [piece.primary_metric for piece in pieces if piece.primary_metric is not None]:
            requests.append(self._change("POST", "/primary-metric", named[-1]))
            self.best = Best(named[-1]["name"], named[-1]["mode"])
        rows = joined(rows for piece in pieces for rows in piece.rows)
        if self.best is not None:
            self.best.see(rows)
        for points, series, stage in metric_bodies(rows, pause=pause):
            body = MetricsBody(self._epoch, self._source, self.last.seq + 1, series, stage)
            requests.append(self._telemetry("/metrics", body, points=points))
        for lines in line_batches(line for piece in pieces for line in piece.lines):
            logs = LogsBody(self._epoch, self._source, self.last.seq + 1, lines)
            requests.append(self._telemetry("/logs", logs, lines=len(lines)))
        if reported := [piece.progress for piece in pieces if piece.progress is not None]:
            requests.append(self._change("POST", "/progress", {"epoch": self._epoch, **reported[-1]}))
        return requests

    def _telemetry(self, path: str, body: MetricsBody | LogsBody, *, points: int = 0, lines: int = 0) -> Request:
        self.last = Numbers(self.last.seq + 1, self.last.change)
        key = f"{self._nonce}/{self.last.seq}"
        return Request("POST", self._path + path, key, encode(body), MSGPACK, points, lines)

    def _change(self, method: str, path: str, body: Json) -> Request:
        self.last = Numbers(self.last.seq, self.last.change + 1)
        key = f"{self._nonce}/change/{self.last.change}"
        return Request(method, self._path + path, key, msgspec.json.encode(body), JSON)


def taken_apart(number: int, chunks: Sequence[list[Rows]]) -> list[Logged]:
    """Return a piece for each chunk of rows, numbered from `number` on."""
    return [Logged(number + index, whole(chunk)) for index, chunk in enumerate(chunks)]
