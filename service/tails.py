"""Who waits for a ledger to grow: nudged by our own appends and by what NATS says of the others'."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from uuid import UUID


class Tails:
    """Wakes the readers of a ledger. A nudge may be missing, so a reader also looks by itself now and then."""

    def __init__(self) -> None:
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self.publish: Callable[[UUID], None] | None = None

    @property
    def followers(self) -> int:
        """How many readers wait or read."""
        return sum(map(len, self._waiting.values()))

    def grown(self, ledger_id: UUID) -> None:
        """One of our own appends was committed: wake our readers, and tell the others."""
        self.wake(ledger_id)
        if self.publish is not None:
            self.publish(ledger_id)

    def wake(self, ledger_id: UUID) -> None:
        """Wake this process's readers of the ledger."""
        for event in self._waiting.get(ledger_id, ()):
            event.set()

    def wake_all(self) -> None:
        """Wake everybody: we are stopping."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def wait(self, ledger_id: UUID, event: asyncio.Event, seconds: float) -> None:
        """Wait until the ledger has grown, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    def follow(self, ledger_id: UUID) -> asyncio.Event:
        """Return an event that is set whenever the ledger grows; give it back with `leave`."""
        event = asyncio.Event()
        self._waiting[ledger_id].add(event)
        return event

    def leave(self, ledger_id: UUID, event: asyncio.Event) -> None:
        """Stop following."""
        self._waiting[ledger_id].discard(event)
        if not self._waiting[ledger_id]:
            del self._waiting[ledger_id]
