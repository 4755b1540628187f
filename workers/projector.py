"""The projector: keeps every asynchronous projection of every ledger up to date.

An event that a projection cannot take holds up that projection of that ledger alone: the page is done again event by
event up to it, the failure becomes a dead letter, shown in `lagging`, and is tried again ever more rarely, at once
when somebody asks for it. One that somebody discards is passed over for that projection.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from events.commit import LOST_CONNECTION
from events.ledger import Ledger
from events.sql import load
from projections import dead_letters
from projections.apply import Projection, advance, checkpoint
from projections.credits import Credits
from projections.metrics import Metrics
from projections.search.index import Search
from workers.crashpoints import crash_point

log = logging.getLogger("tachograph.workers.projector")

PROJECTIONS: Final[Sequence[Projection]] = (Credits(), Metrics(), Search())
PAGES_AT_ONCE: Final = 16
"""How many pages of one projection of one ledger are applied in a step, so that the others get their turn."""
BACKOFF_SECONDS: Final = (1.0, 2.0, 5.0, 15.0, 60.0)


class Lag(msgspec.Struct, frozen=True):
    """A projection of a ledger that is held up at `position`; `retry_at` is a time of the monotonic clock."""

    projection: str
    ledger_id: UUID
    position: int
    error: str
    failures: int
    retry_at: float


def reader(projection: Projection) -> str:
    """Return the name by which a projection's dead letters are known."""
    return f"projector.{projection.name}"


class Projector:
    """The background role. Any number may run; see `projections.apply`."""

    name = "projector"
    pause_seconds = 0.25
    gather_seconds = 0.2

    def __init__(
        self,
        ledger: Ledger,
        projections: Sequence[Projection] = PROJECTIONS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._projections = projections
        self._clock = clock
        self._lags: dict[tuple[str, UUID], Lag] = {}
        self._careful_until: dict[tuple[str, UUID], int] = {}

    @property
    def lagging(self) -> Sequence[Lag]:
        """What is held up, and where."""
        return tuple(self._lags.values())

    async def start(self) -> None:
        """Everything is looked at afresh, what was held up before too."""
        self._careful_until.clear()
        self._lags = {
            (projection.name, letter.ledger_id): Lag(
                projection=projection.name,
                ledger_id=letter.ledger_id,
                position=letter.position,
                error=letter.error,
                failures=letter.failures,
                retry_at=self._clock(),
            )
            for projection in self._projections
            for letter in await dead_letters.held(self._ledger.pool, reader(projection))
        }

    async def step(self) -> int:
        """Apply some pages of each projection of each ledger that is behind; returns how many positions were passed."""
        named = {projection.name: projection for projection in self._projections}
        behind = await self._ledger.pool.fetch(load("projections.sql", "ledgers_behind"), list(named))
        return sum([await self._catch_up(named[row["projection"]], row["ledger_id"], row["lag"]) for row in behind])

    async def stop(self) -> None:
        """Nothing is held."""

    async def _catch_up(self, projection: Projection, ledger_id: UUID, lag: int) -> int:
        """Apply pages up to where the ledger ended when it was looked at, or as many as there may be at once."""
        passed = 0
        for _ in range(PAGES_AT_ONCE):
            page = await self._advance(projection, ledger_id)
            passed += page
            if page == 0 or passed >= lag:
                break
        return passed

    async def _advance(self, projection: Projection, ledger_id: UUID) -> int:
        key = (projection.name, ledger_id)
        lag = self._lags.get(key)
        if lag is not None:
            state = await dead_letters.state(self._ledger.pool, reader(projection), ledger_id, lag.position)
            if state == "discarded":
                return await self._pass_over(projection, ledger_id, lag.position)
            if self._clock() < lag.retry_at and state != "retry":
                return 0
        try:
            passed = await advance(self._ledger, projection, ledger_id, limit=1 if key in self._careful_until else None)
        except LOST_CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the other projections go on)
            if key not in self._careful_until:
                self._careful_until[key] = await self._end_of_page(projection, ledger_id)
                return await self._advance(projection, ledger_id)
            return await self._hold_up(projection, ledger_id, error)
        if passed:
            crash_point("projector.after_commit")
            if self._lags.pop(key, None) is not None:
                stands = await checkpoint(self._ledger.pool, projection.name, ledger_id)
                await dead_letters.resolve(self._ledger.pool, reader(projection), ledger_id, stands.position)
                crash_point("projector.after_resolve")
            await self._relax(projection, ledger_id)
        return passed

    async def _end_of_page(self, projection: Projection, ledger_id: UUID) -> int:
        stands = await checkpoint(self._ledger.pool, projection.name, ledger_id)
        page = await self._ledger.read(
            ledger_id, after=stands.position, limit=projection.page_events, types=projection.types, payloads=False
        )
        return page[-1].position if page else stands.position

    async def _hold_up(self, projection: Projection, ledger_id: UUID, error: Exception) -> int:
        key = (projection.name, ledger_id)
        stands = await checkpoint(self._ledger.pool, projection.name, ledger_id)
        culprit = await self._ledger.read(
            ledger_id, after=stands.position, limit=1, types=projection.types, payloads=False
        )
        position = culprit[0].position if culprit else stands.position + 1
        state = await dead_letters.hold(self._ledger, reader(projection), ledger_id, position, error)
        crash_point("projector.after_hold")
        if state == "discarded":
            return await self._pass_over(projection, ledger_id, position)
        failures = self._lags[key].failures + 1 if key in self._lags else 1
        pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
        self._lags[key] = Lag(
            projection=projection.name,
            ledger_id=ledger_id,
            position=position,
            error=f"{type(error).__name__}: {error}",
            failures=failures,
            retry_at=self._clock() + pause,
        )
        log.error(
            "%s of ledger %s is held up at position %d (%d times); again in %.0f s",
            projection.name,
            ledger_id,
            position,
            failures,
            pause,
            exc_info=error,
        )
        return 0

    async def _pass_over(self, projection: Projection, ledger_id: UUID, position: int) -> int:
        """Go on behind an event that somebody discarded; returns how many positions were passed."""
        stands = await checkpoint(self._ledger.pool, projection.name, ledger_id)
        async with self._ledger.pool.acquire() as connection, connection.transaction():
            await connection.execute(load("projections.sql", "open_checkpoint"), projection.name, ledger_id)
            await connection.execute(
                load("projections.sql", "move_checkpoint"), projection.name, ledger_id, stands.position, position
            )
        crash_point("projector.after_pass_over")
        self._lags.pop((projection.name, ledger_id), None)
        log.warning("%s of ledger %s goes on without position %d", projection.name, ledger_id, position)
        return position - stands.position

    async def _relax(self, projection: Projection, ledger_id: UUID) -> None:
        """Take whole pages again once what made us careful is passed."""
        key = (projection.name, ledger_id)
        until = self._careful_until.get(key)
        if until is not None:
            stands = await checkpoint(self._ledger.pool, projection.name, ledger_id)
            if stands.position >= until:
                del self._careful_until[key]
