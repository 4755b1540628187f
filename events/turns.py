"""A queue for each stream: callers of one process that would change the same one take turns, first come first served.

Correctness does not need it: the ledger refuses a decision on an old version (optimistic concurrency). Without turns,
though, many callers at once would refuse one another again and again. Other processes are not waited for.
"""

import asyncio
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

    def of(self, stream: UUID) -> "Turn":
        """Return a turn at a stream: `async with` it, be the only one here to change the stream."""
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = asyncio.Lock()
        return Turn(stream, queue, self._wait_seconds)


class Turn:
    """A place in a stream's queue; mostly nobody else stands there, and it is had at once."""

    __slots__ = ("_queue", "_stream", "_wait_seconds")

    def __init__(self, stream: UUID, queue: asyncio.Lock, wait_seconds: float) -> None:
        self._stream = stream
        self._queue = queue
        self._wait_seconds = wait_seconds

    async def __aenter__(self) -> None:
        """Wait for the turn. Raises `Busy` when it does not come soon."""
        if not self._queue.locked():
            await self._queue.acquire()
            return
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._queue.acquire()
        except TimeoutError:
            waited = f"{self._wait_seconds:g} seconds"
            raise Busy(f"others have been changing {self._stream} for {waited}") from None

    async def __aexit__(self, *_: object) -> None:
        """Let the next one have it."""
        self._queue.release()
