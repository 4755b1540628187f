"""A history told again, event by event in the order of the ledger: lifecycle, metrics, logs, and the state after each.

    replay = Replay(ledger, Restorer(store), Wanted(ledger_id=…, run_id=…, after=0, up_to=head))
    async for step in replay.steps(): ...

Telemetry whose payload has moved comes back from Parquet; what a deletion erased is told without its contents. Memory
does not grow with the history, and no snapshot is held while it is told.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events import codec
from events.codec import TELEMETRY
from events.ledger import NEAR_EVENTS, PAGE_EVENTS, Ledger, Recorded
from events.run import NO_RUN, Run, evolve
from events.sql import load
from projections.apply import WINDOW_POSITIONS, present
from projections.archive.restore import Restorer
from projections.inline import bare
from projections.past import PAGE_VERSIONS

POSITIONS_AT_ONCE: Final = 100_000
STATES: Final = 1_000
"""How many runs' states are kept while a project is told; another's is folded again when it goes on."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to tell: a ledger, or one run of it, after a position up to another, all types of events or some."""

    ledger_id: UUID
    run_id: UUID | None = None
    after: int = 0
    up_to: int
    types: Sequence[str] | None = None


class Step(msgspec.Struct, frozen=True):
    """One event; `restored` if its payload came from Parquet, `run` the run's state after a lifecycle event of it."""

    recorded: Recorded
    restored: bool
    run: Run | None


class Replay:
    """One telling of a history; `told`, `restored` and `erased` count as it goes, `position` is how far it has come."""

    def __init__(self, ledger: Ledger, restorer: Restorer, wanted: Wanted) -> None:
        self._ledger = ledger
        self._restorer = restorer
        self._wanted = wanted
        self._states: OrderedDict[UUID, Run] = OrderedDict()
        self.position = wanted.after
        self.told = self.restored = self.erased = 0

    async def steps(self) -> AsyncGenerator[Step]:
        """Yield what is wanted, in order.

        Raises `TelemetryMovedError` for a batch that is neither in Postgres nor in its file, `CorruptHistory` for any
        other payload that is missing though its stream was not deleted.
        """
        async for page in self._pages():
            async with self._ledger.pool.acquire() as connection:
                facts = [recorded for recorded in page if recorded.type not in TELEMETRY]
                await present(connection, self._wanted.ledger_id, facts)
            for recorded in page:
                step = await self._step(recorded)
                yield step
                self.told += 1
                self.restored += step.restored
                self.erased += step.recorded.payload is None
                self.position = recorded.position
        self.position = self._wanted.up_to

    def state(self, run_id: UUID) -> Run | None:
        """Return the state that a run was folded into so far."""
        return self._states.get(run_id)

    async def _step(self, recorded: Recorded) -> Step:
        if recorded.type not in TELEMETRY:
            run = await self._fold(recorded) if recorded.type.startswith("run.") else None
            return Step(recorded, restored=False, run=run)
        if recorded.payload is not None:
            return Step(recorded, restored=False, run=None)
        batch = await self._restorer.batch(self._ledger.pool, recorded.ledger_id, recorded)
        if batch is None:
            return Step(recorded, restored=False, run=None)
        payload = codec.encode_batch(batch, recorded.schema_version)
        return Step(replace(recorded, payload=payload), restored=True, run=None)

    async def _fold(self, recorded: Recorded) -> Run:
        """Fold an event into its run's state, and before it whatever was passed over."""
        run = self._states.pop(recorded.stream, NO_RUN)
        last = (recorded.version or 0) - 1
        while run.version < last:
            up_to = min(last, run.version + PAGE_VERSIONS)
            for one in await self._ledger.read_stream(
                recorded.ledger_id, recorded.stream, after=run.version, up_to=up_to
            ):
                run = _evolved(run, one)
        run = self._states[recorded.stream] = _evolved(run, recorded)
        if len(self._states) > STATES:
            self._states.popitem(last=False)
        return run

    async def _pages(self) -> AsyncIterator[list[Recorded]]:
        wanted = self._wanted
        if wanted.run_id is not None:
            async for first, last in self._spans(wanted.run_id):
                async for page in self._read(first - 1, last):
                    yield page
            return
        for after in range(wanted.after, wanted.up_to, WINDOW_POSITIONS):
            async for page in self._read(after, min(after + WINDOW_POSITIONS, wanted.up_to)):
                yield page

    async def _read(self, after: int, up_to: int) -> AsyncIterator[list[Recorded]]:
        wanted = self._wanted
        while after < up_to:
            page = await self._ledger.read(
                wanted.ledger_id, after=after, up_to=up_to, types=wanted.types, stream=wanted.run_id
            )
            if not page:
                return
            yield page
            after = page[-1].position

    async def _spans(self, run_id: UUID) -> AsyncIterator[tuple[int, int]]:
        """Yield the first and last positions of stretches of the run, each near enough to be read at once."""
        wanted = self._wanted
        after = wanted.after
        while True:
            rows = await self._ledger.pool.fetch(
                load("projections.sql", "run_positions"),
                wanted.ledger_id,
                run_id,
                after,
                wanted.up_to,
                None if wanted.types is None else list(wanted.types),
                POSITIONS_AT_ONCE,
            )
            first = last = count = 0
            for (position,) in rows:
                if count and (position - first >= NEAR_EVENTS or count == PAGE_EVENTS):
                    yield first, last
                    count = 0
                first = first if count else position
                last, count = position, count + 1
            if count:
                yield first, last
            if len(rows) < POSITIONS_AT_ONCE:
                return
            after = last


def _evolved(run: Run, recorded: Recorded) -> Run:
    event = bare(recorded) if recorded.payload is None else recorded.event()
    return evolve(run, event, recorded.recorded_at)
