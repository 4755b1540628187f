"""A run's messages in JetStream, wherever they were published: found by subject, and overwritten one by one."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from events.ledger import SURVIVES_ERASURE
from events.streams import STREAMS
from workers.crashpoints import crash_point

STREAM_SUBJECTS: Final = (("EVENTS", "tachograph.events"), ("TELEMETRY", "tachograph.telemetry"))
MORE_WORDS: Final = 3
"""How many words a subject for republishing may have beyond those of its stream, for a deletion to find it."""

MESSAGES_AT_A_TIME: Final = 32
PAGE_MESSAGES: Final = 500
FETCH_SECONDS: Final = 5.0

_NOT_DELETED: Final = frozenset({10_037, 10_057})
"""JetStream's codes for a message that is not there: no message found, message delete failed."""


class Message(msgspec.Struct, frozen=True):
    """A stored message: its sequence in its stream and the bytes of its body."""

    sequence: int
    bytes: int


Found = Mapping[str, Sequence[Message]]
"""Messages by stream."""


async def find_messages(jetstream: JetStreamContext, ledger_id: UUID, run_id: UUID) -> Found:
    """Return a run's messages by stream, the news of its deletion left out."""
    found: dict[str, list[Message]] = {}
    for stream, prefix in (*STREAM_SUBJECTS, *await _republished(jetstream)):
        found.setdefault(stream, []).extend(await _messages(jetstream, stream, f"{prefix}.{ledger_id}.{run_id}"))
    return found


async def _republished(jetstream: JetStreamContext) -> list[tuple[str, str]]:
    """Return other streams of this server with the prefixes below which a history may be published again in them."""
    ours = {stream.name for stream in STREAMS}
    return [
        (str(info.config.name), subject.removesuffix(".>") + ".*" * words)
        for info in await jetstream.streams_info()
        if info.config.name not in ours
        for subject in info.config.subjects or ()
        if subject.endswith(".>")
        for words in range(MORE_WORDS + 1)
    ]


async def erase_messages(jetstream: JetStreamContext, found: Found) -> None:
    """Overwrite messages one by one."""
    for stream, messages in found.items():
        for start in range(0, len(messages), MESSAGES_AT_A_TIME):
            some = messages[start : start + MESSAGES_AT_A_TIME]
            await asyncio.gather(*(_erase(jetstream, stream, message.sequence) for message in some))
            crash_point("purge.after_messages")


async def _erase(jetstream: JetStreamContext, stream: str, sequence: int) -> None:
    """Overwrite a message (the server's default way to delete one); if it is gone already, the next look says so."""
    try:
        await jetstream.delete_msg(stream, sequence)
    except APIError as error:
        if error.err_code not in _NOT_DELETED:
            raise


async def _messages(jetstream: JetStreamContext, stream: str, subject: str) -> list[Message]:
    """Return the messages below a run's subject, the news of its deletion left out; bodies are not read."""
    try:
        subscription = await jetstream.pull_subscribe(
            f"{subject}.>",
            stream=stream,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.ALL,
                ack_policy=AckPolicy.NONE,
                headers_only=True,
                inactive_threshold=60,
                mem_storage=True,
            ),
        )
    except NotFoundError:
        return []  # no such stream, so nothing of the run's is in it
    found = []
    words = subject.count(".") + 1
    try:
        pending = (await subscription.consumer_info()).num_pending or 0
        while pending:
            page = await subscription.fetch(min(PAGE_MESSAGES, pending), timeout=FETCH_SECONDS)
            pending = page[-1].metadata.num_pending
            for message in page:
                if message.subject.split(".", words)[-1] not in SURVIVES_ERASURE:
                    size = int((message.headers or {}).get("Nats-Msg-Size", 0))
                    found.append(Message(message.metadata.sequence.stream, size))
    finally:
        await subscription.unsubscribe()
    return found
