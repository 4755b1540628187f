"""Is the record what was recorded? Every column, payload and hash of a ledger, checked in order.

    verification = await verify(ledger, ledger_id)
    assert verification.verified, verification.first_bad

Pages are read in short transactions and memory is bounded, whatever the ledger's length. What this cannot see is
a tail that was cut off together with the head row: for that, chain heads are kept elsewhere.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events import codec
from events.codec import TELEMETRY, Leaf
from events.errors import CorruptHistory, NotFound
from events.keys import DataKey
from events.ledger import SURVIVES_ERASURE, Ledger
from events.sql import load
from events.types import RunTelemetryArchived

PAGE_EVENTS: Final = 1_000
PAGE_BYTES: Final = 8 << 20
EVENTS_AT_A_TIME: Final = 128
_CACHED_ARCHIVALS: Final = 1_000
_CACHED_KEYS: Final = 10_000
_LEAF_COLUMNS: Final = len(Leaf.__struct_fields__)
_KINDS: Final = {kind: "logs" if kind == codec.LOGS else "metrics" for kind in TELEMETRY}

Progress = Callable[[int, int], None]
"""Called after each page with the position reached and the one to reach."""


class FirstBad(msgspec.Struct, frozen=True):
    """The first record that is not what was recorded, and what about it differs."""

    position: int
    reason: str


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found: `position` is the last good one, `checked` events were read.

    Of those, `erased` and `archived` payloads are rightly gone, and only their commitments could be checked.
    """

    verified: bool
    position: int
    first_bad: FirstBad | None
    checked: int
    erased: int
    archived: int


class _Bad(Exception):
    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.found = FirstBad(position, reason)


async def verify(ledger: Ledger, ledger_id: UUID, *, progress: Progress | None = None) -> Verification:
    """Check a ledger from its first event to the head it has now. Raises `NotFound`."""
    verifier = _Verifier(ledger, ledger_id)
    first_bad = None
    try:
        await verifier.run(progress)
    except _Bad as bad:
        first_bad = bad.found
    return Verification(
        verified=first_bad is None,
        position=verifier.position,
        first_bad=first_bad,
        checked=verifier.checked,
        erased=verifier.erased,
        archived=verifier.archived,
    )


class _Page(msgspec.Struct, frozen=True):
    """Rows, with their streams' keys, first misplaced versions, and which of those without payload were deleted."""

    rows: Sequence[asyncpg.Record]
    keys: Mapping[UUID, DataKey]
    misplaced: Mapping[UUID, int]
    deleted: set[UUID]


class _Verifier:
    """One pass over one ledger; `position` and `chain` are of the last event that was good."""

    def __init__(self, ledger: Ledger, ledger_id: UUID) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self._archivals: OrderedDict[UUID, list[RunTelemetryArchived]] = OrderedDict()
        self._opened: OrderedDict[bytes, DataKey] = OrderedDict()
        self.position = 0
        self.chain = codec.EMPTY_CHAIN
        self.recorded_at: datetime | None = None
        self.checked = self.erased = self.archived = 0

    async def run(self, progress: Progress | None) -> None:
        """Check every page; raises `_Bad` at the first bad record."""
        head = await self._ledger.pool.fetchrow(load("events.sql", "read_head"), self._ledger_id)
        if head is None:
            raise NotFound("there is no such ledger")
        end: int = head["position"]
        following = asyncio.ensure_future(self._read(0))
        try:
            while self.position < end:
                page = await following
                rows = [row for row in page.rows if row["position"] <= end]
                if not rows:
                    raise _Bad(self.position + 1, f"missing: the head says that there are {end} events")
                following = asyncio.ensure_future(self._read(rows[-1]["position"]))
                await self._check(rows, page)
                if progress is not None:
                    progress(self.position, end)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await self._check_head(end, head["chain"], head["recorded_at"])

    async def _read(self, after: int) -> _Page:
        """Read a page ahead, with all that its checks ask of the database."""
        rows = await self._ledger.pool.fetch(
            load("events.sql", "verify_page"), self._ledger_id, after, PAGE_EVENTS, PAGE_BYTES
        )
        misplaced = await self._misplaced(rows)
        keys = await self._keys(rows)
        missing = {row["stream"] for row in rows if row["ciphertext"] is None or row["stream"] not in keys}
        return _Page(rows, keys, misplaced, await self._deleted(missing))

    async def _check_head(self, end: int, chain: bytes, recorded_at: datetime) -> None:
        if chain != self.chain:
            raise _Bad(max(end, 1), "the head's chain value is not the last event's")
        if self.recorded_at is not None and recorded_at < self.recorded_at:
            raise _Bad(end, "the head's time lies before the last event's")
        beyond = await self._ledger.pool.fetchval(
            "select e.position from ledger.event e join ledger.head h using (ledger_id)"
            " where e.ledger_id = $1 and e.position > h.position order by e.position limit 1",
            self._ledger_id,
        )
        if beyond is not None:
            raise _Bad(beyond, "stands beyond the head")

    async def _check(self, rows: Sequence[asyncpg.Record], page: _Page) -> None:
        """Check rows in order, giving way to others (and to the next page) every now and then."""
        for count, row in enumerate(rows):
            if count % EVENTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            leaf = Leaf(*row[:_LEAF_COLUMNS])
            position, recorded_at, chain, salt, ciphertext, _ = row[_LEAF_COLUMNS:]
            self._check_chain(leaf, position, recorded_at, chain)
            if leaf.version is not None and page.misplaced.get(leaf.stream) == leaf.version:
                raise _Bad(position, f"version {leaf.version} does not follow on its stream's last one")
            survives = leaf.type in SURVIVES_ERASURE
            key = page.keys.get(self._ledger_id if survives else leaf.stream)
            if ciphertext is not None and key is not None:
                _check_payload(leaf, position, salt, ciphertext, key)
            elif leaf.stream in page.deleted and not survives:
                self.erased += 1
            elif ciphertext is not None:
                raise _Bad(position, "its payload is there, but the key to it is not")
            elif leaf.type in TELEMETRY and await self._is_archived(leaf, position):
                self.archived += 1
            else:
                raise _Bad(position, "its payload is missing, and nothing on record explains that")
            self.position = position
            self.checked += 1

    def _check_chain(self, leaf: Leaf, position: int, recorded_at: datetime, stored: bytes) -> None:
        if position != self.position + 1:
            raise _Bad(self.position + 1, f"missing: the next event is at position {position}")
        if self.recorded_at is not None and recorded_at < self.recorded_at:
            raise _Bad(position, "recorded before the event in front of it")
        chain = codec.chain(self.chain, position, recorded_at, codec.leaf_body(leaf))
        if chain != stored:
            raise _Bad(position, "its columns do not lead to its chain value")
        self.chain, self.recorded_at = chain, recorded_at

    async def _keys(self, page: Sequence[asyncpg.Record]) -> Mapping[UUID, DataKey]:
        """Return the page's data keys; a stream without one was erased."""
        wanted = {row["stream"] for row in page if row["ciphertext"] is not None}
        wanted.update(self._ledger_id for row in page if row["type"] in SURVIVES_ERASURE)
        rows = await self._ledger.pool.fetch(load("events.sql", "read_keys"), self._ledger_id, list(wanted))
        return {row["stream"]: self._key(row["wrapped"]) for row in rows}

    def _key(self, wrapped: bytes) -> DataKey:
        key = self._opened.get(wrapped)
        if key is None:
            key = self._opened[wrapped] = self._ledger.keyring.unwrap(wrapped)
            if len(self._opened) > _CACHED_KEYS:
                self._opened.popitem(last=False)
        return key

    async def _misplaced(self, page: Sequence[asyncpg.Record]) -> Mapping[UUID, int]:
        """Return, by stream, the first version of the page that does not follow on the one before it."""
        first: dict[UUID, int] = {}
        last: dict[UUID, int] = {}
        bad: dict[UUID, int] = {}
        for row in page:
            stream, version = row["stream"], row["version"]
            if version is None:
                continue
            if stream not in first:
                first[stream] = version
            elif version != last[stream] + 1:
                bad.setdefault(stream, version)
            last[stream] = version
        if first:
            rows = await self._ledger.pool.fetch(
                load("events.sql", "verify_versions"),
                self._ledger_id,
                list(first),
                list(first.values()),
                page[0]["position"],
            )
            bad.update({row["stream"]: row["version"] for row in rows})
        return bad

    async def _deleted(self, streams: set[UUID]) -> set[UUID]:
        if not streams:
            return set()
        rows = await self._ledger.pool.fetch(load("events.sql", "read_deletions"), self._ledger_id, list(streams))
        return {row["stream"] for row in rows}

    async def _is_archived(self, leaf: Leaf, position: int) -> bool:
        known = self._archivals.get(leaf.stream)
        if known is None:
            known = self._archivals[leaf.stream] = await self._read_archivals(leaf.stream)
            if len(self._archivals) > _CACHED_ARCHIVALS:
                self._archivals.popitem(last=False)
        return any(
            one.kind == _KINDS[leaf.type] and one.first_position <= position <= one.last_position for one in known
        )

    async def _read_archivals(self, stream: UUID) -> list[RunTelemetryArchived]:
        wrapped = await self._ledger.pool.fetchval(load("events.sql", "read_key"), self._ledger_id, stream)
        if wrapped is None:
            return []
        key = self._ledger.keyring.unwrap(wrapped)
        rows = await self._ledger.pool.fetch(load("events.sql", "read_archivals"), self._ledger_id, stream)
        payloads = [key.unseal(row["ciphertext"], row["event_id"]) for row in rows]
        events = [codec.decode("run.telemetry_archived", 1, payload) for payload in payloads]
        return [event for event in events if isinstance(event, RunTelemetryArchived)]


def _check_payload(leaf: Leaf, position: int, salt: bytes, ciphertext: bytes, key: DataKey) -> None:
    try:
        payload = key.unseal(ciphertext, leaf.event_id)
    except CorruptHistory:
        raise _Bad(position, "its payload was altered") from None
    if codec.commitment(salt, payload) != leaf.commitment:
        raise _Bad(position, "its payload is not the one that it commits to")
