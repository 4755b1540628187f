"""The worker's sign of life, in a task of its own: whatever else is slow, this is not.

A beat says which attempts of which runs this worker holds. It is never kept for later: one that cannot be sent now
says nothing that the next one will not say better.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.beats import Beat, beat_subject

logger = logging.getLogger(__name__)

BUSY_SECONDS: Final = 2.0
IDLE_SECONDS: Final = 5.0


class Heart:
    """Beats every 2 s while there are runs, else every 5 s, and at once when something changed."""

    def __init__(self, nats: Client, beat: Callable[[], Beat | None]) -> None:
        self._nats = nats
        self._beat = beat
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Beat now: a run came or went."""
        self._changed.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            beat = await self.once()
            pause = BUSY_SECONDS if beat is not None and beat.runs else IDLE_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def once(self) -> Beat | None:
        """Send one beat if there is a connection; None before the worker has an id."""
        self._changed.clear()
        beat = self._beat()
        if beat is not None and self._nats.is_connected:
            try:
                await self._nats.publish(beat_subject(beat.sender), msgspec.json.encode(beat))
            except NatsError as error:
                logger.warning("a heartbeat was not sent: %s", error)
        return beat
