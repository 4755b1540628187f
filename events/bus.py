"""JetStream, the transport: its streams, and publishing that knows what it does not know.

A publish that fails or times out is *unknown*: it may still be stored later. The remedy is always to publish the
same message id again. Source: docs/decisions/0003-postgres-record-jetstream-transport.md.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

log = logging.getLogger("tachograph.bus")

DAY: Final = 86_400.0

STREAMS: Final = (
    StreamConfig(
        name="EVENTS",
        subjects=["tachograph.events.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=30 * DAY,
        max_bytes=8 << 30,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    StreamConfig(
        name="TELEMETRY",
        subjects=["tachograph.telemetry.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=DAY,
        max_bytes=8 << 30,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    StreamConfig(
        name="COMMANDS",
        subjects=["tachograph.commands.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=DAY,
        max_bytes=256 << 20,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    StreamConfig(
        name="HEARTBEATS",
        subjects=["tachograph.heartbeats.*"],
        storage=StorageType.MEMORY,
        retention=RetentionPolicy.LIMITS,
        max_msgs_per_subject=1,
        max_bytes=64 << 20,
        discard=DiscardPolicy.OLD,
    ),
)
"""Every stream that we use. Limits retention, so that acknowledged ids still deduplicate."""

PUBLISH_WINDOW: Final = 256
PUBLISH_SECONDS: Final = 5.0


def nudge_subject(ledger_id: object) -> str:
    """Return the core NATS subject that says "this ledger has grown"."""
    return f"tachograph.nudge.{ledger_id}"


async def connect(url: str, *, name: str, wait: bool = True) -> Client:
    """Connect to NATS and stay connected; user and password may stand in the URL.

    With `wait`, the first connection is tried until it is made; without, it raises after the first failure.
    """
    parts = urlsplit(url)
    client = Client()

    async def said(error: Exception) -> None:
        log.warning("NATS: %s", error)

    await client.connect(
        f"{parts.scheme}://{parts.hostname}:{parts.port}",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        name=f"tachograph-{name}",
        error_cb=said,
        ping_interval=5,
        max_outstanding_pings=2,
        reconnect_time_wait=1,
        max_reconnect_attempts=-1 if wait else 1,
        connect_timeout=2,
    )
    return client


class Nudges:
    """Says on core NATS which ledgers have grown. Nobody relies on it: who does not hear it polls."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._grown: set[UUID] = set()
        self._task: asyncio.Task[None] | None = None

    def __call__(self, ledger_id: UUID) -> None:
        """Let everybody know, without waiting."""
        self._grown.add(ledger_id)
        if self._task is None and self._client.is_connected:
            self._task = asyncio.create_task(self._say(), name="nudge")

    async def _say(self) -> None:
        try:
            while self._grown and self._client.is_connected:
                await self._client.publish(nudge_subject(self._grown.pop()))
        except (NatsError, OSError) as error:
            log.warning("nudge: %s", error)
        finally:
            self._task = None


async def ensure_streams(jetstream: JetStreamContext) -> None:
    """Create the streams that are missing; bring the others to the declared limits."""
    for declared in STREAMS:
        assert declared.name is not None
        try:
            await jetstream.stream_info(declared.name)
        except NotFoundError:
            await jetstream.add_stream(declared)
        else:
            await jetstream.update_stream(declared)


Message = tuple[str, bytes, Mapping[str, str]]


async def publish(jetstream: JetStreamContext, messages: Sequence[Message]) -> int:
    """Publish in order, a window of messages at a time; returns how many of the first are surely stored.

    Each message expects its predecessor to be the last one of its stream, so a gap is refused by the server
    instead of being filled too late. Less than all means that the outcome of the next one is unknown: publish from
    there again, with the same ids.
    """
    stored = 0
    last: dict[str, str] = {}
    for start in range(0, len(messages), PUBLISH_WINDOW):
        tasks = []
        for subject, body, given in messages[start : start + PUBLISH_WINDOW]:
            stream = subject.split(".", 2)[1]
            headers = dict(given)
            if stream in last:
                headers["Nats-Expected-Last-Msg-Id"] = last[stream]
            last[stream] = headers["Nats-Msg-Id"]
            sending = jetstream.publish(subject, body, headers=headers, timeout=PUBLISH_SECONDS)
            tasks.append(asyncio.create_task(sending))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, NatsError | TimeoutError | OSError):
                log.warning("publish: %s; will be repeated", repr(result))
                return stored
            if isinstance(result, BaseException):
                raise result
            stored += 1
    return stored


__all__ = ["STREAMS", "Message", "Nudges", "connect", "ensure_streams", "nudge_subject", "publish"]
