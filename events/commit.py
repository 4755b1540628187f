"""Group commit: one transaction at a time per ledger takes whatever arrived while the last one committed.

There is no timer, so a lone caller never waits for company. Many callers who come and go together would take turns
with Postgres; while it answers about as quickly as they come back, they go in two halves, so that one half is decided
and sealed while the other commits. Each caller gets its own verdict; where a whole group fails in the database (a name
taken, say), its members are tried alone, so that only the culprit fails. When the connection breaks, the outcome is
unknown and the same group goes again: its ids make that safe.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import count
from time import perf_counter
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from events.errors import Busy, Unavailable

MAX_GROUP_EVENTS: Final = 512
MAX_GROUP_BYTES: Final = 16 << 20
MAX_WAITING_BYTES: Final = 128 << 20
GROUPS_AT_A_STRETCH: Final = 32
HALF_CALLERS: Final = 8
"""Fewer callers than these are not worth a commit of their own."""
LITTLE_LONGER: Final = 1.5
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)

LOST_CONNECTION: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an idle connection that broke, and whose end was not seen yet
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class InlineRow(msgspec.Struct, frozen=True):
    """A row of an inline projection: which event of its proposal (from 0) it stands at, and the row as JSON."""

    event: int
    row: msgspec.Raw


class RunState(msgspec.Struct, frozen=True):
    """What most events change of a run's row: its state, as MessagePack without the run's times.

    `progressed` says that the time of its progress is the append's.
    """

    state: bytes
    progressed: bool = False


class Prepared(msgspec.Struct, kw_only=True):
    """A sealed proposal, ready for `append.sql`: its events as `wire.row` makes them.

    By `first_id`, the id of its first event, a repetition is recognised.
    """

    stream: UUID
    first_id: UUID
    expected: int | None
    epoch: int | None
    gate: int
    wrapped_key: bytes | None
    source: str | None
    seq: int | None
    events: list[Any]
    inline: dict[str, list[InlineRow]]
    state: RunState | None = None
    size: int

    @property
    def columns(self) -> tuple[Any, ...]:
        """The proposal's own columns in the order of `append.sql`."""
        return (
            self.stream,
            self.expected,
            self.epoch,
            self.gate,
            self.wrapped_key,
            self.first_id,
            self.source,
            self.seq,
            len(self.events),
        )


class Verdict(msgspec.Struct, frozen=True):
    """What became of one proposal: where it stands, or why it was refused (see `append.sql`).

    `stored` is what `ledger.stored` says of a duplicate, `epoch` the stream's where a stale one was fenced.
    """

    first: int
    last: int
    recorded_at: datetime
    refusal: str | None = None
    stored: asyncpg.Record | None = None
    epoch: int | None = None


Commit = Callable[[UUID, Sequence[Prepared]], Awaitable[list[Verdict]]]
Rest = Callable[[UUID], Awaitable[None]]
"""Gives back what `Commit` has kept for the next group."""


async def _keeps_nothing(_: UUID) -> None: ...


class GroupCommit:
    """The queue to one ledger."""

    def __init__(
        self, ledger_id: UUID, commit: Commit, rest: Rest = _keeps_nothing, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._ledger_id = ledger_id
        self._commit = commit
        self._rest = rest
        self._clock = clock
        self._waiting: deque[tuple[Prepared, asyncio.Future[Verdict]]] = deque()
        self._waiting_bytes = 0
        self._pace: float | None = None  # seconds a caller, where those who are answered come back at once
        self._task: asyncio.Task[None] | None = None

    async def submit(self, prepared: Prepared) -> Verdict:
        """Return the proposal's verdict once its transaction ended.

        A cancelled caller's proposal may still be recorded. Raises `Busy` past the queue's bound, `Unavailable`
        when Postgres stays away.
        """
        if self._waiting_bytes + prepared.size > MAX_WAITING_BYTES and self._waiting:
            raise Busy(f"over {MAX_WAITING_BYTES} bytes are waiting to be recorded")
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((prepared, future))
        self._waiting_bytes += prepared.size
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name=f"group commit {self._ledger_id}")
        return await future

    async def drained(self) -> None:
        """Wait until nothing is under way."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            most = MAX_GROUP_EVENTS
            for number in count(1):
                group = self._take(most)
                began = self._clock()
                await self._settle(group)
                most = await self._answered(len(group), self._clock() - began)
                if not self._waiting:
                    break
                if number % GROUPS_AT_A_STRETCH == 0:
                    await self._rest(self._ledger_id)
        finally:
            self._task = None
            await self._rest(self._ledger_id)

    async def _answered(self, callers: int, seconds: float) -> int:
        """Return how many events the next group takes at most, once the callers may have come back with more."""
        waiting = len(self._waiting)
        if waiting and (self._pace is None or self._side_by_side(callers + waiting, seconds)):
            return MAX_GROUP_EVENTS
        began = self._clock()
        await asyncio.sleep(0)  # who was just answered may have more
        back = len(self._waiting) - waiting
        self._pace = (self._clock() - began) / back if back else None
        halved = back >= 2 * HALF_CALLERS and self._side_by_side(back + waiting, seconds)
        return (back + waiting) // 2 if halved else MAX_GROUP_EVENTS

    def _side_by_side(self, callers: int, seconds: float) -> bool:
        """Whether one half of the callers had better come back while the other half's commit is under way.

        A commit more pays while one, of so many seconds, takes little longer than all of them need to come back.
        """
        return self._pace is not None and seconds < LITTLE_LONGER * self._pace * callers

    def _take(self, most: int) -> list[tuple[Prepared, "asyncio.Future[Verdict]"]]:
        """Take a group of at most so many events: telemetry first, one lifecycle proposal a stream, no id twice."""
        telemetry, lifecycle, later = [], [], []
        streams: set[UUID] = set()
        keys: set[tuple[Any, ...]] = set()
        events = size = 0
        while self._waiting:
            waiting = self._waiting.popleft()
            one = waiting[0]
            key = (one.first_id,) if one.seq is None else (one.stream, one.epoch, one.source, one.seq)
            if events and (events + len(one.events) > most or size + one.size > MAX_GROUP_BYTES):
                self._waiting.appendleft(waiting)
                break
            if key in keys or (one.seq is None and one.stream in streams):
                later.append(waiting)
                continue
            keys.add(key)
            events += len(one.events)
            size += one.size
            if one.seq is None:
                streams.add(one.stream)
                lifecycle.append(waiting)
            else:
                telemetry.append(waiting)
        self._waiting.extendleft(reversed(later))
        self._waiting_bytes -= size
        return telemetry + lifecycle

    async def _settle(self, group: list[tuple[Prepared, "asyncio.Future[Verdict]"]]) -> None:
        try:
            verdicts = await self._durably([prepared for prepared, _ in group])
        except Exception as error:  # noqa: BLE001 (handed to the callers)
            if len(group) > 1 and isinstance(error, asyncpg.PostgresError):
                for member in group:
                    await self._settle([member])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), verdict in zip(group, verdicts, strict=True):
            if not future.done():
                future.set_result(verdict)

    async def _durably(self, group: Sequence[Prepared]) -> list[Verdict]:
        for pause in (*RETRY_SECONDS, None):
            try:
                return await self._commit(self._ledger_id, group)
            except LOST_CONNECTION as error:
                if pause is None:
                    raise Unavailable(f"Postgres does not answer: {error}") from error
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")
