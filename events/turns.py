"""Callers of one process that would change the same stream take turns, first come first served.

The ledger refuses whoever decided on an old version, so what is recorded is right without turns; they keep many who
come at once from refusing one another again and again. Other processes are not waited for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

from events.errors import Busy

WAIT_SECONDS: Final = 10.0


class Turns:
    """A queue for each stream, which is there for as long as somebody stands in it."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._queues: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def of(self, stream: UUID) -> AsyncIterator[None]:
        """Be the only one here to change a stream. Raises `Busy` when the turn does not come soon."""
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = asyncio.Lock()
        try:
            async with asyncio.timeout(self._wait_seconds if queue.locked() else None):
                await queue.acquire()
        except TimeoutError:
            raise Busy(f"others have been changing {stream} for {self._wait_seconds:g} seconds") from None
        try:
            yield
        finally:
            queue.release()
