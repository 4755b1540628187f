"""The relay: every committed event, read back in order and published to JetStream at least once."""

from typing import Final
from uuid import UUID

from nats.js import JetStreamContext

from events import bus, cloudevents
from events.codec import TELEMETRY
from events.ledger import Ledger, Recorded
from events.sql import load
from workers.crashpoints import crash_point

READER: Final = "relay"
PAGE_EVENTS: Final = 256


class Relay:
    """Publishes what its cursor has not passed, ledger by ledger, and moves the cursor over what is stored."""

    name = "relay"
    pause_seconds = 0.25

    def __init__(self, ledger: Ledger, jetstream: JetStreamContext) -> None:
        self._ledger = ledger
        self._jetstream = jetstream

    async def start(self) -> None:
        """Declare the streams."""
        await bus.ensure_streams(self._jetstream)

    async def step(self) -> int:
        """Publish one page of each ledger that is behind; returns how many events were passed."""
        behind = await self._ledger.pool.fetch(load("events.sql", "behind"), READER)
        return sum([await self._publish_page(row["ledger_id"], row["position"]) for row in behind])

    async def _publish_page(self, ledger_id: UUID, after: int) -> int:
        page = await self._ledger.read(ledger_id, after=after, limit=PAGE_EVENTS)
        messages = [cloudevents.message(recorded) for recorded in page if _has_body(recorded)]
        stored = await bus.publish(self._jetstream, messages)
        crash_point("relay.after_publish")
        passed = _passed(page, stored)
        if passed:
            cursor = page[passed - 1].position
            await self._ledger.pool.execute(load("events.sql", "move_cursor"), READER, ledger_id, cursor)
        return passed

    async def stop(self) -> None:
        """Nothing is held."""


def _has_body(recorded: Recorded) -> bool:
    """Telemetry that was archived or erased before it could be published has nothing left to say."""
    return recorded.payload is not None or recorded.type not in TELEMETRY


def _passed(page: list[Recorded], stored: int) -> int:
    """Return how many events of the page lie before the first one that is not surely stored."""
    for index, recorded in enumerate(page):
        if _has_body(recorded):
            if stored == 0:
                return index
            stored -= 1
    return len(page)
