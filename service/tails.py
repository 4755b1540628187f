"""Fan-out: however many clients follow a ledger, one task reads it as it grows.

It hands each event, encoded once, to all of them. It is woken by this process's own appends, and by what NATS says of
those of others.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from events import cloudevents
from events.commit import LOST_CONNECTION
from events.errors import Busy, LedgerError
from events.ledger import PAGE_BYTES, Ledger, Nudge, Recorded

log = logging.getLogger("tachograph.service")

LOOK_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.02
"""What comes closer together is read and sent together; what comes alone is sent at once."""
PAGE_EVENTS: Final = 200
MAX_QUEUED_EVENTS: Final = 2_000
MAX_QUEUED_BYTES: Final = 8 << 20
MAX_STREAMS_PER_KEY: Final = 100

_json: Final = msgspec.json.Encoder()


class TooManyStreams(Busy):
    """The key has as many open event streams as it may; close one first."""

    limit = MAX_STREAMS_PER_KEY


class Told(msgspec.Struct, frozen=True):
    """An event as it is sent: its position and type, and the CloudEvent as JSON."""

    position: int
    type: str
    body: bytes


def told(recorded: Recorded) -> Told:
    """Return an event as it is sent."""
    return Told(recorded.position, recorded.type, _json.encode(cloudevents.document(recorded)))


class Follower:
    """One client's bounded queue of what it has not been sent yet; one that overflows is cut off."""

    def __init__(self, stream: UUID | None, types: Sequence[str] | None) -> None:
        self.stream = stream
        self._types = None if types is None else frozenset(types)
        self._queue: deque[Told] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()
        self.begins = 0
        """The position behind which the queue holds, or held, all that this client wants."""
        self.reason: str | None = None
        """Why the client was cut off."""

    def wants(self, recorded: Recorded) -> bool:
        """Whether the client asked for this event."""
        return self.stream in (None, recorded.stream) and (self._types is None or recorded.type in self._types)

    def give(self, event: Told) -> None:
        """Queue an event."""
        self._queue.append(event)
        self._bytes += len(event.body)
        self._woken.set()
        if len(self._queue) > MAX_QUEUED_EVENTS or self._bytes > MAX_QUEUED_BYTES:
            self.cut(f"too slow: over {MAX_QUEUED_EVENTS} events or {MAX_QUEUED_BYTES} bytes were waiting")

    def cut(self, reason: str) -> None:
        """Let the client go, and with it what it has not been sent."""
        self.reason = reason
        self._queue.clear()
        self._bytes = 0
        self._woken.set()

    def wake(self) -> None:
        """Make the client look around."""
        self._woken.set()

    async def take(self, seconds: float) -> Sequence[Told]:
        """Return what is queued, waiting for the first event at most so long."""
        if not self._queue and self.reason is None:
            self._woken.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            except TimeoutError:
                return ()
        events = tuple(self._queue)
        self._queue.clear()
        self._bytes = 0
        return events


class Feed:
    """The one reader of a ledger's growth; it lives as long as somebody follows."""

    def __init__(self, ledger: Ledger, ledger_id: UUID, position: int) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self.position = position
        self.followers: set[Follower] = set()
        self.grown = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"feed-{ledger_id}")

    async def _run(self) -> None:
        while True:
            self.grown.clear()
            began = time.monotonic()
            try:
                while await self._page():
                    pass
            except (*LOST_CONNECTION, TimeoutError) as error:
                log.warning("ledger %s cannot be read for its followers: %r; again", self._ledger_id, error)
            except LedgerError as error:
                log.error("ledger %s cannot be read for its followers: %r", self._ledger_id, error)
                for follower in list(self.followers):
                    follower.cut("an event of this ledger cannot be read")
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.grown.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(began + GATHER_SECONDS - time.monotonic())

    async def _page(self) -> bool:
        """Hand on the next page of what the followers want; False where there is no more."""
        head, _ = await self._ledger.head(self._ledger_id)
        if head <= self.position:
            return False
        only = self._only()
        page = await self._ledger.read(self._ledger_id, after=self.position, up_to=head, limit=PAGE_EVENTS, stream=only)
        if only is not None and self._only() != only:
            return True  # somebody came meanwhile who wants more than was read
        for recorded in page:
            wanted = [one for one in self.followers if one.reason is None and one.wants(recorded)]
            event = told(recorded) if wanted else None
            for follower in wanted:
                assert event is not None
                follower.give(event)
            self.position = recorded.position
        if len(page) < PAGE_EVENTS and sum(len(one.payload or b"") + 64 for one in page) < PAGE_BYTES:
            self.position = head  # nothing was cut off
        return self.position < head

    def _only(self) -> UUID | None:
        """Return the one stream that all followers want, or None where they want more."""
        streams = {follower.stream for follower in self.followers}
        return streams.pop() if len(streams) == 1 else None


class Tails:
    """The feeds of this process, and who follows them. A nudge may be missing, so a feed also looks by itself."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self._feeds: dict[UUID, Feed] = {}
        self._open: Counter[str] = Counter()
        self.publish: Nudge | None = None

    @property
    def followers(self) -> int:
        """How many clients follow."""
        return self._open.total()

    @property
    def feeds(self) -> int:
        """How many ledgers are read for them."""
        return len(self._feeds)

    def grown(self, ledger_id: UUID, *, telemetry: bool) -> None:
        """One of our own appends was committed: wake our reader, and tell the others."""
        self.wake(ledger_id)
        if self.publish is not None:
            self.publish(ledger_id, telemetry=telemetry)

    def wake(self, ledger_id: UUID) -> None:
        """Wake this process's reader of the ledger."""
        feed = self._feeds.get(ledger_id)
        if feed is not None:
            feed.grown.set()

    def wake_all(self) -> None:
        """Wake everybody: we are stopping."""
        for feed in self._feeds.values():
            for follower in feed.followers:
                follower.wake()

    def enter(self, key: str) -> Callable[[], None]:
        """Count a client in under its key; returns what counts it out, once. Raises `TooManyStreams`."""
        if self._open[key] >= MAX_STREAMS_PER_KEY:
            raise TooManyStreams(f"a key has at most {MAX_STREAMS_PER_KEY} event streams open at a time")
        self._open[key] += 1
        counted = [key]

        def leave() -> None:
            if counted:
                self._open[counted.pop()] -= 1
                self._open += Counter()  # forget those that have none

        return leave

    async def follow(self, ledger_id: UUID, stream: UUID | None, types: Sequence[str] | None) -> Follower:
        """Return a follower that gets everything behind its `begins`; give it back with `leave`."""
        feed = self._feeds.get(ledger_id)
        if feed is None:
            assert self.ledger is not None
            head, _ = await self.ledger.head(ledger_id)
            feed = self._feeds.get(ledger_id)
            if feed is None:
                feed = self._feeds[ledger_id] = Feed(self.ledger, ledger_id, head)
        follower = Follower(stream, types)
        follower.begins = feed.position
        feed.followers.add(follower)
        return follower

    def leave(self, ledger_id: UUID, follower: Follower) -> None:
        """Stop following; the last one ends the feed."""
        feed = self._feeds.get(ledger_id)
        if feed is not None:
            feed.followers.discard(follower)
            if not feed.followers:
                feed.task.cancel()
                del self._feeds[ledger_id]

    async def close(self) -> None:
        """End every feed."""
        tasks: list[Awaitable[None]] = []
        for feed in self._feeds.values():
            feed.task.cancel()
            tasks.append(feed.task)
        self._feeds.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
