"""The relay: every committed event, read back in order and published to JetStream at least once.

An event that cannot be published holds up its own ledger alone and becomes a dead letter. When JetStream ends
before the last message that we saw stored, it has lost its tail, or everything: the cursors go back to what is
left of each ledger, and publishing goes on from there. An older store that was put in its place brings back what
purged runs had said: that is erased again first.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext

from events import bus, cloudevents
from events.codec import TELEMETRY
from events.commit import LOST_CONNECTION
from events.ledger import Ledger, Recorded
from events.sql import load
from events.streams import STREAMS
from projections import dead_letters
from workers.crashpoints import crash_point
from workers.run_messages import erase_messages, find_messages

log = logging.getLogger("tachograph.workers.relay")

READER: Final = "relay"
PAGE_EVENTS: Final = 512
PAGES_AT_ONCE: Final = 16
"""How many pages of one ledger are published in a step, so that the others get their turn."""
BACKOFF_SECONDS: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
STALLS: Final = 2
"""How often in a row nothing may be stored, while NATS is connected, before that is an error."""

PUBLISHED: Final = {stream.name: stream for stream in STREAMS if stream.name in {"EVENTS", "TELEMETRY"}}


class Held(msgspec.Struct, frozen=True):
    """A ledger that is held up in front of `position`; `retry_at` is a time of the monotonic clock."""

    position: int
    failures: int
    retry_at: float


class Page(msgspec.Struct, frozen=True):
    """Events that can be published, and the one behind them that cannot."""

    events: list[Recorded]
    messages: list[bus.Message]
    culprit: int | None = None
    error: Exception | None = None


class Relay:
    """Publishes what its cursor has not passed, ledger by ledger, and moves the cursor over what is stored."""

    name = "relay"
    pause_seconds = 0.25
    gather_seconds = 0.2

    def __init__(
        self,
        ledger: Ledger,
        jetstream: JetStreamContext,
        *,
        monitor_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._jetstream = jetstream
        self._monitor_url = monitor_url
        self._clock = clock
        self._tails: dict[str, bus.Tail] = {}
        self._reconnects: int | None = None
        self._held: dict[UUID, Held] = {}
        self._stalls = 0

    async def start(self) -> None:
        """Check the server, declare the streams, see that they hold what they held, and what we stood in front of."""
        client = self._jetstream._nc  # noqa: SLF001 (a context has no other way to its client)
        if not await bus.check_server(client, self._monitor_url):
            log.warning("TACHOGRAPH_NATS_MONITOR_URL is not set: nobody checks that NATS syncs before it acknowledges")
        now = self._clock()
        letters = await dead_letters.held(self._ledger.pool, READER)
        self._held = {letter.ledger_id: Held(letter.position, letter.failures, now) for letter in letters}
        await self._see_tails()

    async def step(self) -> int:
        """Publish some pages of each ledger that is behind; returns how many events were passed."""
        if self._reconnects != self._connection() and await self._try_see_tails() is None:
            return self._stall()
        behind = await self._ledger.pool.fetch(load("events.sql", "behind"), READER)
        return sum([await self._catch_up(row["ledger_id"], row["position"]) for row in behind])

    async def stop(self) -> None:
        """Nothing is held."""

    async def _catch_up(self, ledger_id: UUID, after: int) -> int:
        """Publish a ledger's pages until one is not full, or as many as there may be at once."""
        passed = 0
        for _ in range(PAGES_AT_ONCE):
            page = await self._publish_page(ledger_id, after + passed)
            passed += page
            if page < PAGE_EVENTS:
                break
        return passed

    async def _publish_page(self, ledger_id: UUID, after: int) -> int:
        held = self._held.get(ledger_id)
        if held is not None and await self._waits(ledger_id, held):
            return 0
        page = await self._page(ledger_id, after)
        stored = await self._publish(page.messages)
        crash_point("relay.after_publish")
        passed = _passed(page.events, stored)
        reached = page.events[passed - 1].position if passed else after
        if passed == len(page.events) and page.culprit is not None and page.error is not None:
            reached = await self._hold_up(ledger_id, page.culprit, page.error, reached)
            passed += reached == page.culprit
        elif held is not None and reached >= held.position:
            del self._held[ledger_id]
            await dead_letters.resolve(self._ledger.pool, READER, ledger_id, reached)
            crash_point("relay.after_resolve")
        if passed:
            await self._note_tails()
            crash_point("relay.after_note_tails")
            await self._ledger.pool.execute(load("events.sql", "move_cursor"), READER, ledger_id, reached)
            crash_point("relay.after_move_cursor")
        return passed

    async def _page(self, ledger_id: UUID, after: int) -> Page:
        """Return the next page; where an event cannot be read or said, what stands before it."""
        try:
            events = await self._ledger.read(ledger_id, after=after, limit=PAGE_EVENTS)
            return Page(events, [_message(recorded, self._max_payload()) for recorded in events if _has_body(recorded)])
        except LOST_CONNECTION:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is looked at event by event)
            log.warning("a page of ledger %s after position %d cannot be published: %r", ledger_id, after, error)
        page = Page([], [])
        for position in range(after + 1, after + 1 + PAGE_EVENTS):
            try:
                one = await self._ledger.read(ledger_id, after=position - 1, up_to=position)
                if not one:
                    break
                page.messages.extend(_message(recorded, self._max_payload()) for recorded in one if _has_body(recorded))
                page.events.extend(one)
            except LOST_CONNECTION:
                raise
            except Exception as error:  # noqa: BLE001 (whatever it is, the other ledgers go on)
                return Page(page.events, page.messages, position, error)
        return page

    async def _publish(self, messages: list[bus.Message]) -> int:
        """Publish; where nothing is stored, look whether the tail is still what the first message expected.

        Raises `TransportRefused` where it is, and JetStream stores nothing all the same.
        """
        stored = await bus.publish(self._jetstream, messages, self._tails)
        if stored or not messages or not self._jetstream._nc.is_connected:  # noqa: SLF001
            self._stalls = 0 if stored else self._stalls
            return stored
        before = dict(self._tails)
        lost = await self._try_see_tails()
        if lost:
            return 0
        if lost is None or before == self._tails:
            return self._stall()
        return await bus.publish(self._jetstream, messages)

    def _stall(self) -> int:
        """Nothing was stored once more; raises `TransportRefused` when that was too often in a row."""
        self._stalls += 1
        if self._stalls >= STALLS and self._jetstream._nc.is_connected:  # noqa: SLF001
            raise bus.TransportRefused(
                f"NATS is connected, and JetStream has stored nothing {self._stalls} times in a row: is its disk full? "
                "Once there is room again, restart NATS"
            )
        return 0

    async def _hold_up(self, ledger_id: UUID, culprit: int, error: Exception, reached: int) -> int:
        """Stay in front of the culprit, or behind it where it was discarded; returns the position."""
        state = await dead_letters.hold(self._ledger, READER, ledger_id, culprit, error)
        crash_point("relay.after_hold")
        if state == "discarded":
            self._held.pop(ledger_id, None)
            log.warning("ledger %s goes on without the discarded event at position %d", ledger_id, culprit)
            return culprit
        known = self._held.get(ledger_id)
        failures = known.failures + 1 if known is not None and known.position == culprit else 1
        pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
        self._held[ledger_id] = Held(culprit, failures, self._clock() + pause)
        log.error("ledger %s is held up at position %d (%d times): %r", ledger_id, culprit, failures, error)
        return reached

    async def _waits(self, ledger_id: UUID, held: Held) -> bool:
        if self._clock() >= held.retry_at:
            return False
        return await dead_letters.state(self._ledger.pool, READER, ledger_id, held.position) == "held"

    def _connection(self) -> int:
        return int(self._jetstream._nc.stats["reconnects"])  # noqa: SLF001

    def _max_payload(self) -> int:
        return self._jetstream._nc.max_payload  # noqa: SLF001

    async def _try_see_tails(self) -> set[str] | None:
        """Return which streams lost their end, or None where JetStream cannot be asked."""
        try:
            return await self._see_tails()
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("JetStream cannot be asked where its streams end: %r", error)
            return None

    async def _see_tails(self) -> set[str]:
        """Compare where the streams end with where they ended; go back for what is lost. Returns the streams."""
        reconnects = self._connection()
        await bus.ensure_streams(self._jetstream)
        rows = await self._ledger.pool.fetch(load("events.sql", "read_tails"))
        known = {row["stream"]: bus.Tail(row["created_at"], row["last_seq"], row["last_id"]) for row in rows}
        lost: set[str] = set()
        for name in PUBLISHED:
            assert name is not None
            now = await bus.tail(self._jetstream, name)
            if name in known and await self._is_lost(name, known[name], now):
                log.error("JetStream has lost the end of %s (it was %s, it is %s)", name, known[name], now)
                await self._rewind(name)
                lost.add(name)
            self._tails[name] = now
        if lost:
            await self._erase_again()
        await self._note_tails()
        crash_point("relay.after_tails")
        self._reconnects = reconnects
        return lost

    async def _is_lost(self, stream: str, was: bus.Tail, now: bus.Tail) -> bool:
        if was.created_at != now.created_at or now.last_seq < was.last_seq:
            return True
        found = await bus.message_id(self._jetstream, stream, was.last_seq)
        return None not in {found, was.last_id} and found != was.last_id

    async def _rewind(self, stream: str) -> None:
        """Put every ledger's cursor back to what the stream still holds of it, as far as it would be kept."""
        kept = timedelta(seconds=PUBLISHED[stream].max_age or 0)
        cursors = await self._ledger.pool.fetch("select ledger_id from ledger.cursor where reader = $1", READER)
        for row in cursors:
            ledger_id = row["ledger_id"]
            survived = await bus.last_position(self._jetstream, stream, ledger_id)
            back = await self._ledger.pool.fetchval(
                load("events.sql", "rewind_cursor"), READER, ledger_id, survived, stream == "TELEMETRY", kept
            )
            if back is not None:
                log.warning("ledger %s is published again from position %d", ledger_id, back + 1)
                crash_point("relay.after_rewind")

    async def _erase_again(self) -> None:
        """Erase what purged runs had said, where an older store has brought it back."""
        purged = await self._ledger.pool.fetch("select ledger_id, run_id from run where status = 'deleted' and purged")
        for row in purged:
            found = await find_messages(self._jetstream, row["ledger_id"], row["run_id"])
            count = sum(map(len, found.values()))
            if count:
                await erase_messages(self._jetstream, found)
                crash_point("relay.after_erase")
                log.warning("run %s: %d messages that came back are erased again", row["run_id"], count)

    async def _note_tails(self) -> None:
        columns = [(name, one.created_at, one.last_seq, one.last_id) for name, one in sorted(self._tails.items())]
        await self._ledger.pool.execute(load("events.sql", "note_tails"), *map(list, zip(*columns, strict=True)))


def _message(recorded: Recorded, max_payload: int) -> bus.Message:
    """Return an event's message. Raises `MaxPayloadError` where no server of ours would take it."""
    message = cloudevents.message(recorded)
    if len(message[1]) > max_payload:
        raise MaxPayloadError
    return message


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
