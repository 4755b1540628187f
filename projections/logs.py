"""Log lines of a run in the order in which they arrived: Parquet first, then the tail still in Postgres."""

from collections.abc import Sequence
from typing import Any, Final

import duckdb
import msgspec
import numpy as np

from events.errors import CorruptHistory, TooLarge
from events.ledger import Ledger
from events.sql import load
from events.telemetry import STREAMS, LogColumns, MetricColumns
from projections.analytics import Analytics
from projections.archive import manifest
from projections.archive.manifest import Segment
from projections.runs import StoredRun

MAX_LINES: Final = 10_000
FILES_AT_ONCE: Final = 16

_HIGHEST: Final = (1 << 62) - 1


class LogLine(msgspec.Struct, frozen=True):
    """A line; (position, line) is its place in the run's output."""

    position: int
    line: int
    time_us: int
    stream: str
    text: str

    @property
    def cursor(self) -> str:
        """What to pass as `after` to go on behind this line."""
        return f"{self.position}:{self.line}"


class LogPage(msgspec.Struct, frozen=True):
    """Lines in order; `next` goes on behind them and is None at the end, `last` is where they end."""

    lines: list[LogLine]
    next: str | None
    last: str | None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines: after (position, line), of one stream, with a text in them, the first or last `limit`."""

    after: tuple[int, int]
    stream: str | None
    search: str | None
    limit: int
    last: bool


class Logs:
    """Answers log queries of single runs."""

    def __init__(self, ledger: Ledger, analytics: Analytics) -> None:
        self._ledger = ledger
        self._analytics = analytics

    async def read(
        self,
        stored: StoredRun,
        *,
        after: str | None = None,
        limit: int = 1000,
        tail: int | None = None,
        stream: str | None = None,
        search: str | None = None,
    ) -> LogPage:
        """Return the first `limit` lines after a cursor, or the last `tail` of them.

        `search` is a substring. Raises `ValueError` for a cursor that is none, `Erased`, `NotFound`,
        `Busy`, and `TooLarge` past `MAX_LINES`.
        """
        wanted = Wanted(
            after=parse_cursor(after) if after else (0, -1),
            stream=stream,
            search=search or None,
            limit=limit if tail is None else tail,
            last=tail is not None,
        )
        if not 1 <= wanted.limit <= MAX_LINES:
            raise TooLarge(f"1 to {MAX_LINES} lines are read at once, not {wanted.limit}", limit=MAX_LINES)
        return _page(await self._lines(stored, wanted), wanted, after)

    async def _lines(self, stored: StoredRun, wanted: Wanted) -> list[LogLine]:
        def collect(taken: list[LogLine], position: int, batch: MetricColumns | LogColumns) -> bool:
            assert isinstance(batch, LogColumns)
            taken.extend(_matching(position, batch, wanted))
            if wanted.last:
                del taken[: -wanted.limit]
            return wanted.last or len(taken) < wanted.limit

        files, hot = await manifest.read(
            self._ledger, stored.ledger_id, stored.run_id, manifest.LOGS, collect, after=wanted.after[0] - 1
        )
        try:
            archived = await self._analytics.run(self._archived, files, wanted, len(hot))
        except (duckdb.IOException, FileNotFoundError) as error:
            await manifest.segments(self._ledger.pool, stored.ledger_id, stored.run_id, manifest.LOGS)
            raise CorruptHistory(f"a Parquet file of run {stored.run_id} cannot be read: {error}") from error
        lines = archived + hot
        return lines[-wanted.limit :] if wanted.last else lines[: wanted.limit]

    def _archived(self, files: Sequence[Segment], wanted: Wanted, hot: int) -> list[LogLine]:
        """Read a few files at a time, from the end that is asked for, until there are enough lines."""
        files = [file for file in files if file.last_position >= wanted.after[0]]
        missing = wanted.limit - hot if wanted.last else wanted.limit
        found: list[list[LogLine]] = []
        while files and missing > 0:
            some = files[-FILES_AT_ONCE:] if wanted.last else files[:FILES_AT_ONCE]
            files = files[:-FILES_AT_ONCE] if wanted.last else files[FILES_AT_ONCE:]
            lines = self._query(some, wanted, missing)
            missing -= len(lines)
            found.append(lines)
        if wanted.last:
            found.reverse()
        return [line for lines in found for line in lines]

    def _query(self, files: Sequence[Segment], wanted: Wanted, limit: int) -> list[LogLine]:
        sql = load("projections.sql", "log_lines").replace("{order}", "desc" if wanted.last else "asc")
        with self._analytics.store.held([file.file for file in files]) as root:
            rows: list[tuple[Any, ...]] = self._analytics.query(
                sql,
                files=[str(root / file.path) for file in files],
                position=wanted.after[0],
                line=wanted.after[1],
                stream=wanted.stream,
                search=wanted.search,
                limit=limit,
            ).fetchall()
        lines = [LogLine(*row) for row in rows]
        return lines[::-1] if wanted.last else lines


def parse_cursor(text: str) -> tuple[int, int]:
    """Return (position, line). Raises `ValueError` for anything but `position:line`."""
    position, colon, line = text.partition(":")
    if not (colon and position.isdecimal() and line.isdecimal() and len(text) < 40):
        raise ValueError(f"a log cursor is position:line, not {text[:40]!r}")
    return min(int(position), _HIGHEST), min(int(line), _HIGHEST)


def _matching(position: int, batch: LogColumns, wanted: Wanted) -> list[LogLine]:
    times, streams = batch.times(), batch.streams()
    keep = np.ones(batch.points, bool)
    if position <= wanted.after[0]:
        keep[: wanted.after[1] + 1 if position == wanted.after[0] else None] = False
    if wanted.stream is not None:
        keep &= np.array([stream == wanted.stream for stream in STREAMS])[streams]
    if wanted.search is not None:
        keep &= np.fromiter((wanted.search in text for text in batch.text), bool, batch.points)
    return [
        LogLine(position, line, int(times[line]), STREAMS[streams[line]], batch.text[line])
        for line in np.flatnonzero(keep).tolist()
    ]


def _page(lines: list[LogLine], wanted: Wanted, after: str | None) -> LogPage:
    last = lines[-1].cursor if lines else after
    full = not wanted.last and len(lines) == wanted.limit
    return LogPage(lines, next=last if full else None, last=last)
