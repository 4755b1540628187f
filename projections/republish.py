"""A range of a history published again for a new subscriber: the relay's messages, under another subject.

    sent = await Republisher(client, "replayed.digits").publish(replay)       # → replayed.digits.<ledger>.<run>.<type>

Ids, attributes and bodies are the relay's, so a subscriber cannot tell, and a repetition is recognised. Batches that
come from Parquet carry the header `ce-restored: true`: their columns are in the order of the file, and their bytes are
not those that `ce-commitment` commits to. A publish that fails or times out is unknown, and repeated with the same id.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StorageType, StreamConfig
from nats.js.errors import NotFoundError

from events import bus, cloudevents
from events.bus import PUBLISH_WINDOW, Message
from events.codec import TELEMETRY
from events.errors import LedgerError, Unavailable
from events.streams import STREAMS
from projections.replay import Replay, Step

WINDOW_BYTES: Final = 8 << 20
FRUITLESS: Final = 8
"""How many times in a row nothing gets through before we give up."""
PAUSE_SECONDS: Final = 0.5

_SUBJECT: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class SubjectRefusedError(LedgerError):
    """The subject is one that history must not be published on a second time, or none at all."""


class Sent(msgspec.Struct):
    """What became of a range: published, of these restored from Parquet; and what has no message, and why."""

    published: int = 0
    restored: int = 0
    erased: int = 0
    too_large: int = 0


def check_subject(subject: str) -> str:
    """Return a subject that history may be published under. Raises `SubjectRefusedError`."""
    if not _SUBJECT.fullmatch(subject) or len(subject) > 200:
        raise SubjectRefusedError(f"a subject is words of letters, digits, - and _, dots between, not {subject[:80]!r}")
    if subject.split(".", 1)[0].lower() in {"tachograph", "_inbox"}:
        raise SubjectRefusedError(
            f"{subject} belongs to the running system, whose subscribers have seen this history; choose one of your own"
        )
    return subject


def message_of(step: Step, subject: str, max_payload: int) -> Message | str:
    """Return a step's message below a subject, or why it has none: `erased` or `too_large`."""
    recorded = step.recorded
    if recorded.payload is None and recorded.type in TELEMETRY:
        return "erased"
    given, body, headers = cloudevents.message(recorded)
    if len(body) > max_payload:
        return "too_large"
    marked = {**headers, "ce-restored": "true"} if step.restored else headers
    return f"{subject}.{given.split('.', 2)[2]}", body, marked


class Republisher:
    """Publishes replays to JetStream, in order, a window at a time."""

    def __init__(self, client: Client, subject: str) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._subject = check_subject(subject)
        self.position: int | None = None
        """Up to where everything is surely published, once it has begun."""

    async def ready(self, create: str | None = None) -> None:
        """See that a stream keeps what is published; `create` is the name of one to make where there is none.

        Raises `SubjectRefusedError` where none does, or one of the running system's.
        """
        try:
            found = await self._jetstream.find_stream_name_by_subject(f"{self._subject}.ledger.run.type")
        except NotFoundError:
            if create is None:
                raise SubjectRefusedError(
                    f"no JetStream stream keeps {self._subject}.>, so nobody would get it; --stream NAME makes one"
                ) from None
            await self._jetstream.add_stream(
                StreamConfig(name=create, subjects=[f"{self._subject}.>"], storage=StorageType.FILE)
            )
            return
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"JetStream cannot be asked which stream keeps {self._subject}: {error!r}") from error
        if found in {stream.name for stream in STREAMS}:
            raise SubjectRefusedError(f"{self._subject} is kept by the running system's own stream {found}")

    async def publish(self, replay: Replay, progress: Callable[[int], None] = lambda _: None) -> Sent:
        """Publish what a replay tells; returns what became of it.

        Raises `Unavailable` once nothing gets through any more, naming the position to go on behind.
        """
        sent = Sent()
        self.position = replay.position
        window: list[tuple[int, Message, bool]] = []
        size = 0
        async with aclosing(replay.steps()) as steps:
            async for step in steps:
                made = message_of(step, self._subject, self._client.max_payload)
                if isinstance(made, str):
                    setattr(sent, made, getattr(sent, made) + 1)
                    continue
                window.append((step.recorded.position, made, step.restored))
                size += len(made[1])
                if len(window) >= PUBLISH_WINDOW or size >= WINDOW_BYTES:
                    await self._flush(window, sent)
                    progress(self.position)
                    size = 0
        await self._flush(window, sent)
        self.position = replay.position
        return sent

    async def _flush(self, window: list[tuple[int, Message, bool]], sent: Sent) -> None:
        """Publish all of a window; what is not surely stored is published again, in order, with the same ids."""
        fruitless = 0
        while window:
            stored = await self._try([message for _, message, _ in window])
            for position, _, restored in window[:stored]:
                sent.published += 1
                sent.restored += restored
                self.position = position
            del window[:stored]
            fruitless = 0 if stored else fruitless + 1
            if not stored and "permissions violation" in str(self._client.last_error).lower():
                raise Unavailable(f"this NATS user may not publish on {self._subject}.>: {self._client.last_error}")
            if fruitless == FRUITLESS:
                raise Unavailable(f"NATS takes nothing any more behind position {self.position}")
            if window and not stored:
                await asyncio.sleep(PAUSE_SECONDS * fruitless)

    async def _try(self, messages: list[Message]) -> int:
        try:
            return await bus.publish(self._jetstream, messages)  # each expects the one before it: no gap, no swap
        except (NatsError, OSError, TimeoutError):
            return 0


async def count(replay: Replay, subject: str, progress: Callable[[int], None] = lambda _: None) -> Sent:
    """Return what publishing a replay would come to, with nothing published."""
    sent = Sent()
    async with aclosing(replay.steps()) as steps:
        async for step in steps:
            made = message_of(step, subject, cloudevents.MAX_BODY_BYTES)
            if isinstance(made, str):
                setattr(sent, made, getattr(sent, made) + 1)
            else:
                sent.published += 1
                sent.restored += step.restored
            progress(step.recorded.position)
    return sent
