"""A look at Postgres for somebody who would rather hear that it says nothing than wait for it.

A query that is cancelled waits for its server as well. So what was asked is left to end by itself, and nobody asks
again meanwhile: a server that hangs holds one connection, however often one looks.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from projections import dead_letters, health, incidents
from projections.health import Heard
from projections.incidents import Incident
from projections.runs import Reader

PATIENCE_SECONDS: Final = 2.0
LATELY_SECONDS: Final = 15.0

T = TypeVar("T")


class Glance(Generic[T]):
    """One question, asked by one at a time; all who come meanwhile share the answer."""

    def __init__(self, question: Callable[[], Awaitable[T]]) -> None:
        self._question = question
        self._asked: asyncio.Future[T] | None = None
        self._since = 0.0

    async def answer(self) -> T:
        """Return the answer. Raises `TimeoutError` where there is none after `PATIENCE_SECONDS`, and what it raises."""
        asked = self._asked
        if asked is None or asked.done():
            asked = self._asked = asyncio.ensure_future(self._question())
            asked.add_done_callback(_heard)
            self._since = time.monotonic()
        await asyncio.wait({asked}, timeout=max(0.0, self._since + PATIENCE_SECONDS - time.monotonic()))
        if not asked.done():
            raise TimeoutError(f"no answer for {time.monotonic() - self._since:.0f} s")
        return asked.result()


def _heard(asked: asyncio.Future[T]) -> None:
    """Take notice of an error that nobody waits for any more."""
    if not asked.cancelled():
        asked.exception()


class Lately:
    """Whether something happened within the last `LATELY_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() - LATELY_SECONDS

    def set(self) -> None:
        """Take notice that it happened."""
        self._at = self._clock()

    def is_set(self) -> bool:
        """Tell whether it did."""
        return self._clock() - self._at < LATELY_SECONDS


class Standing(NamedTuple):
    """How the roles are, and what operators should look at."""

    copies: Sequence[Heard]
    incidents: Sequence[Incident]


async def standing(pool: Reader) -> Standing:
    """Return what Postgres says of the rest of the system."""
    return Standing(await health.heard(pool), await incidents.latest(pool))


async def backlog(pool: Reader) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return how far behind each reader is, and how many events it cannot take."""
    return await health.lags(pool), await dead_letters.waiting(pool)
