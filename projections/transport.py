"""Checks JetStream's copy: the messages of a ledger, read in order beside the ledger's own events.

A message may repeat, but none may differ or be made up, and none may lack between the first one kept and the relay's
cursor, nor one so young that it cannot have gone by itself. Of what Postgres does not hold any more (archived batches,
erased payloads) the attributes alone are compared, and none is missed.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamState
from nats.js.errors import NotFoundError

from events import cloudevents
from events.codec import EVENT_TYPES, TELEMETRY
from events.ledger import Ledger, Recorded
from events.sql import load
from events.streams import STREAMS as DECLARED
from events.verification import FirstBad, Progress

STREAMS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "EVENTS": ("tachograph.events", tuple(sorted(EVENT_TYPES))),
    "TELEMETRY": ("tachograph.telemetry", tuple(sorted(TELEMETRY))),
}
SAMPLE_MESSAGES: Final = 10_000
"""How many of each stream's newest messages a sampled check goes through."""

PAGE_MESSAGES: Final = 200
FETCH_SECONDS: Final = 5.0
SPARE_SECONDS: Final = 3_600.0
"""So much younger than their age limit are messages that are looked for: clocks differ, and a check takes its time."""

_RELAY: Final = "relay"
_NO_DATA: Final = dict.fromkeys(("data", "dataref", "datacontenttype"))
_LIMITS: Final = {config.name: (config.max_age or 0.0, config.max_bytes or 0) for config in DECLARED}


async def check_transport(
    ledger: Ledger,
    jetstream: JetStreamContext,
    ledger_id: UUID,
    *,
    sample: int | None = SAMPLE_MESSAGES,
    progress: Progress | None = None,
) -> tuple[int, FirstBad | None]:
    """Return how many messages were compared, and the first that differs; `sample` None looks at all.

    Raises `TimeoutError` when JetStream stops answering.
    """
    checked = 0
    for stream in STREAMS:
        one = _Stream(ledger, ledger_id, stream)
        bad = await one.check(jetstream, sample, progress)
        checked += one.checked
        if bad is not None:
            return checked, bad
    return checked, None


class _Stream:
    """One pass over one stream; `reached` is the position up to which messages and events were matched."""

    def __init__(self, ledger: Ledger, ledger_id: UUID, stream: str) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self._stream = stream
        self._prefix, self._types = STREAMS[stream]
        self._reached: int | None = None
        self._kept: int | None = None
        self.checked = 0

    async def check(
        self, jetstream: JetStreamContext, sample: int | None, progress: Progress | None
    ) -> FirstBad | None:
        cursor = await self._ledger.pool.fetchval(
            "select position from ledger.cursor where reader = $1 and ledger_id = $2", _RELAY, self._ledger_id
        )
        try:
            state = (await jetstream.stream_info(self._stream)).state
        except NotFoundError:
            state = StreamState(messages=0, bytes=0, first_seq=0, last_seq=0, consumer_count=0)
        start = state.first_seq if sample is None else max(state.first_seq, state.last_seq - sample + 1)
        if start <= state.first_seq:
            self._kept = await self._surely_kept(state)
        if state.messages:
            bad = await self._read(jetstream, max(start, 1), state.last_seq, progress)
            if bad is not None:
                return bad
        if self._reached is None:
            self._reached = self._kept
        if self._reached is None:
            return None
        return await self._matched({}, cursor or 0)

    async def _surely_kept(self, state: StreamState) -> int | None:
        """Return the position after which no message can have gone by itself; None where one may, for want of room."""
        age_seconds, most_bytes = _LIMITS[self._stream]
        if state.bytes > most_bytes // 2:
            return None
        oldest = datetime.now(UTC) - timedelta(seconds=age_seconds - SPARE_SECONDS)
        position: int | None = await self._ledger.pool.fetchval(
            load("projections.sql", "position_at"), self._ledger_id, oldest
        )
        return position

    async def _read(
        self, jetstream: JetStreamContext, start: int, end: int, progress: Progress | None
    ) -> FirstBad | None:
        subscription = await jetstream.pull_subscribe(
            f"{self._prefix}.{self._ledger_id}.>",
            stream=self._stream,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=start,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=60,
                mem_storage=True,
            ),
        )
        try:
            pending = (await subscription.consumer_info()).num_pending or 0
            total, done = pending, 0
            while pending:
                messages = await subscription.fetch(min(PAGE_MESSAGES, pending), timeout=FETCH_SECONDS)
                bad = await self._page([one for one in messages if one.metadata.sequence.stream <= end])
                if bad is not None:
                    return bad
                done += len(messages)
                pending = messages[-1].metadata.num_pending
                if progress is not None:
                    progress(done, max(total, done + pending))
                if messages[-1].metadata.sequence.stream >= end:
                    break
            return None
        finally:
            await subscription.unsubscribe()

    async def _page(self, messages: Sequence[Msg]) -> FirstBad | None:
        """Match a page of messages with the events of the same positions; repeats are compared for themselves."""
        new: dict[int, Msg] = {}
        for message in messages:
            self.checked += 1
            position = _position(message)
            if position is None:
                return FirstBad(self._reached or 0, f"JetStream's {message.subject} says no position")
            if self._reached is None:
                self._reached = position - 1 if self._kept is None else min(position - 1, self._kept)
            if position <= self._reached or position in new:
                found = await self._ledger.read(self._ledger_id, after=position - 1, up_to=position)
                bad = await self._compared(message, position, found[0] if found else None)
                if bad is not None:
                    return bad
            else:
                new[position] = message
        return await self._matched(new, max(new)) if new else None

    async def _matched(self, new: Mapping[int, Msg], up_to: int) -> FirstBad | None:
        """Match every event of this stream's types after the one reached with its message, up to a position."""
        assert self._reached is not None
        left = dict(new)
        while self._reached < up_to:
            page = await self._ledger.read(
                self._ledger_id, after=self._reached, up_to=up_to, limit=PAGE_MESSAGES, types=self._types
            )
            for recorded in page:
                message = left.pop(recorded.position, None)
                if message is not None:
                    bad = await self._compared(message, recorded.position, recorded)
                elif recorded.payload is None or await self._is_deleted(recorded.stream):
                    bad = None
                else:
                    bad = FirstBad(recorded.position, f"JetStream lacks its message ({recorded.type})")
                if bad is not None:
                    return bad
            self._reached = page[-1].position if page else up_to
        if left:
            position = min(left)
            return FirstBad(
                position, f"JetStream has a message that no event of the ledger is: {left[position].subject}"
            )
        return None

    async def _compared(self, message: Msg, position: int, recorded: Recorded | None) -> FirstBad | None:
        if recorded is None:
            return FirstBad(position, f"JetStream has a message that no event of the ledger is: {message.subject}")
        if recorded.payload is None and await self._is_purged(recorded.stream) and _has_contents(message):
            return FirstBad(position, "JetStream still holds what a purge was to erase")
        subject, body, headers = cloudevents.message(recorded)
        given = message.headers or {}
        differs = [name for name, value in headers.items() if given.get(name) != value]
        differs += [name for name in given if name.startswith("ce-") and name not in headers]
        if message.subject != subject:
            differs.append("subject")
        if not _same_body(message, body, recorded):
            differs.append("body")
        if differs:
            return FirstBad(position, f"JetStream's message differs from the ledger in {', '.join(differs)}")
        return None

    async def _is_deleted(self, stream: UUID) -> bool:
        found: bool = await self._ledger.pool.fetchval(
            "select exists (select from ledger.stream where ledger_id = $1 and stream = $2 and gate = 2)",
            self._ledger_id,
            stream,
        )
        return found

    async def _is_purged(self, stream: UUID) -> bool:
        found: bool = await self._ledger.pool.fetchval(
            "select exists (select from ledger.event where ledger_id = $1 and stream = $2 and version is not null"
            " and type = 'run.purged')",
            self._ledger_id,
            stream,
        )
        return found


def _position(message: Msg) -> int | None:
    given = (message.headers or {}).get("ce-position")
    if given is None:
        try:
            given = msgspec.json.decode(message.data)["position"]
        except (msgspec.DecodeError, KeyError, TypeError):
            return None
    try:
        position = int(given)
    except (TypeError, ValueError):
        return None
    return position if 0 < position < 1 << 63 else None


def _has_contents(message: Msg) -> bool:
    if message.subject.startswith("tachograph.telemetry."):
        return bool(message.data)
    try:
        return msgspec.json.decode(message.data, type=dict[str, Any]).get("data") is not None
    except msgspec.DecodeError:
        return bool(message.data)  # not what we wrote; whatever it is, it is something


def _same_body(message: Msg, body: bytes, recorded: Recorded) -> bool:
    """Tell whether a message's body is the event's; where the payload is gone, whether its attributes are."""
    if message.data == body:
        return True
    if recorded.payload is None and recorded.type in TELEMETRY:
        return True  # its attributes are headers
    try:
        one, other = (msgspec.json.decode(each, type=dict[str, Any]) for each in (message.data, body))
    except msgspec.DecodeError:
        return False
    if recorded.payload is None:
        return {**one, **_NO_DATA} == {**other, **_NO_DATA}
    return one == other  # another release may write them in another order
