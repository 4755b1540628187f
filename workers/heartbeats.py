"""Heartbeats as they come over NATS: whoever listens hears each that can be read."""

import logging
from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.beats import Beat, beat_subject

log = logging.getLogger("tachograph.workers")

_beat: Final = msgspec.json.Decoder(Beat)


class Heartbeats:
    """Passes on beats to `hear` between `start` and `stop`; one that cannot be read is logged."""

    def __init__(self, nats: Client, hear: Callable[[Beat], None]) -> None:
        self._nats = nats
        self._hear = hear
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen. Raises `ConnectionError` where NATS is away: nothing would come."""
        if not self._nats.is_connected:
            raise ConnectionError("NATS is not connected")
        self._subscription = await self._nats.subscribe(beat_subject("*"), cb=self._take)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None and not self._nats.is_closed:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def _take(self, message: Msg) -> None:
        try:
            beat = _beat.decode(message.data)
        except msgspec.DecodeError as error:
            log.error("a heartbeat on %s cannot be read: %s", message.subject, error)
            return
        self._hear(beat)
