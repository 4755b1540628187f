"""A change of a stream that is no run: read its state, decide, append, and all of it again when somebody was faster."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from events.errors import VersionConflict
from events.ledger import Ledger

ATTEMPTS: Final = 20

T = TypeVar("T")


async def in_turn(ledger: Ledger, stream: UUID, attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` comes to in its turn at a stream; it is made anew when another process was faster.

    Raises what `attempt` raises, `VersionConflict` only after `ATTEMPTS` rounds, `Busy` when the turn does not come.
    """
    async with ledger.turns.of(stream):
        for _ in range(ATTEMPTS):
            try:
                return await attempt()
            except VersionConflict:
                continue
        raise VersionConflict(f"others changed {stream} {ATTEMPTS} times meanwhile")
