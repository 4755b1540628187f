"""What waits for the archiver: telemetry that is not yet in Parquet, by run and kind.

The tail follows every ledger by position, without payloads. The stored cursor never passes what is not yet in Parquet,
so after any death the tail begins early enough; what is in Parquet already is seen by whoever goes about archiving it.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.codec import EVENT_TYPES
from events.sql import load
from events.transitions import ENDED, TRANSITIONS
from projections.archive import manifest
from workers.crashpoints import crash_point

READER: Final = "archiver"
TAIL_EVENTS: Final = 5_000

_ENDS: Final = frozenset(
    name
    for name, event in EVENT_TYPES.items()
    for (_, kind), to in TRANSITIONS.items()
    if kind is event and to in ENDED
)
_RETURNS: Final = frozenset({"run.started", "run.recovered"})


class Waiting(msgspec.Struct):
    """Telemetry of one run and kind that is not yet in Parquet, as far as the tail has seen."""

    first: int
    last: int
    bytes: int
    since: datetime


Key = tuple[UUID, UUID, str]
"""Ledger, run, kind."""


class Tail:
    """Follows all ledgers; whoever has archived what waits removes it from `waiting`, or shortens it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.waiting: dict[Key, Waiting] = {}
        self._pool = pool
        self._read: dict[UUID, int] = {}
        self._cursors: dict[UUID, int] = {}
        self._ended: set[UUID] = set()

    def restart(self) -> None:
        """Begin again from the stored cursors."""
        self.waiting.clear()
        self._read.clear()
        self._cursors.clear()
        self._ended.clear()

    def has_ended(self, run_id: UUID) -> bool:
        """Say whether a run for which something waits has ended."""
        return run_id in self._ended

    async def follow(self) -> tuple[int, bool]:
        """Read on in every ledger that has grown; returns how many events, and whether there are more."""
        passed, more = 0, False
        for row in await self._pool.fetch(load("events.sql", "behind"), READER):
            ledger_id = row["ledger_id"]
            after = self._read.setdefault(ledger_id, row["position"])
            self._cursors.setdefault(ledger_id, row["position"])
            if after >= row["head"]:
                continue
            events = await self._pool.fetch(load("projections.sql", "telemetry_tail"), ledger_id, after, TAIL_EVENTS)
            for event in events:
                self._note(ledger_id, event)
                self._read[ledger_id] = event["position"]
            passed += len(events)
            more = more or len(events) == TAIL_EVENTS
        return passed, more

    def _note(self, ledger_id: UUID, event: asyncpg.Record) -> None:
        run_id, position = event["stream"], event["position"]
        kind = manifest.KIND_OF.get(event["type"])
        if kind is not None:
            waiting = self.waiting.get((ledger_id, run_id, kind))
            if waiting is None:
                waiting = Waiting(position, position, 0, event["recorded_at"])
                self.waiting[ledger_id, run_id, kind] = waiting
            waiting.last = position
            waiting.bytes += event["bytes"]
        elif event["type"] in _ENDS:
            self._ended.add(run_id)
        elif event["type"] in _RETURNS:
            self._ended.discard(run_id)

    async def move_cursors(self) -> None:
        """Store how far each ledger needs not be read again: to what waits longest, or to the tail's end."""
        floors = dict(self._read)
        for (ledger_id, _, _), waiting in self.waiting.items():
            floors[ledger_id] = min(floors[ledger_id], waiting.first - 1)
        for ledger_id, position in floors.items():
            if position > self._cursors[ledger_id]:
                await self._pool.execute(load("events.sql", "move_cursor"), READER, ledger_id, position)
                crash_point("archiver.after_move_cursor")
                self._cursors[ledger_id] = position
        self._ended &= {run_id for _, run_id, _ in self.waiting}
