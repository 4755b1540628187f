"""Is the record what was recorded? Every column, payload and hash of a ledger, checked in order, and its streams' rows.

    verification = await verify(ledger, ledger_id)
    assert verification.verified, verification.first_bad

Pages are read in short transactions and memory is bounded, whatever the ledger's length. What this cannot see is
a tail that was cut off together with the head row: for that, chain heads are kept elsewhere.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from events import codec
from events.codec import TELEMETRY
from events.errors import CorruptHistory, NotFound
from events.keys import DataKey
from events.ledger import GATE_ERASED, SURVIVES_ERASURE, Ledger
from events.run_events import RunTelemetryArchived
from events.sql import load

PAGE_EVENTS: Final = 1_000
PAGE_STREAMS: Final = 500
PAGE_BATCHES: Final = 5_000
PAGE_BYTES: Final = 8 << 20
EVENTS_AT_A_TIME: Final = 128
COVERED: Final = 15
"""How many columns of a row its body is the hash of, besides the ledger's id; the last of them is the commitment."""

_BESIDE: Final = {
    "select 'ledger.ledger' where not exists (select from ledger.ledger where ledger_id = $1)": "the row in {} is gone",
    "select k.stream from ledger.data_key k where k.ledger_id = $1 and not exists"
    " (select from ledger.stream s where s.ledger_id = $1 and s.stream = k.stream) limit 1": (
        "there is a key to a stream {}, which does not exist"
    ),
}
"""Queries for a row that must not be, and what to say of one."""

_ASTRAY: Final = "its payload is filed under another stream"
_CACHED_ARCHIVALS: Final = 1_000
_CACHED_STREAMS: Final = 10_000
_KINDS: Final = {kind: "logs" if kind == codec.LOGS else "metrics" for kind in TELEMETRY}

K = TypeVar("K")

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
    """Rows, with their streams' keys (None: one that does not open), first misplaced versions, new streams that
    `ledger.stream` does not know, and which of those without payload were deleted. Streams are their ids' 16 bytes.
    """

    rows: Sequence[asyncpg.Record]
    keys: Mapping[bytes, DataKey | None]
    misplaced: Mapping[bytes, int]
    unknown: set[bytes]
    deleted: set[bytes]


class _Verifier:
    """One pass over one ledger; `position` and `chain` are of the last event that was good."""

    def __init__(self, ledger: Ledger, ledger_id: UUID) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self._archivals: OrderedDict[bytes, list[RunTelemetryArchived]] = OrderedDict()
        self._keys: OrderedDict[bytes, DataKey | None] = OrderedDict()
        self._versions: OrderedDict[bytes, int] = OrderedDict()
        self.position = 0
        self.chain = codec.EMPTY_CHAIN
        self.recorded = bytes(8)
        self.checked = self.erased = self.archived = 0

    async def run(self, progress: Progress | None) -> None:
        """Check every page; raises `_Bad` at the first bad record."""
        head = await self._ledger.pool.fetchrow(load("events.sql", "read_head"), self._ledger_id)
        if head is None:
            if await self._ledger.pool.fetchval(
                "select exists (select from ledger.event where ledger_id = $1)", self._ledger_id
            ):
                raise _Bad(1, "there are events, but no head of theirs")
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
        await self._check_streams()
        await self._check_rows()

    async def _read(self, after: int) -> _Page:
        """Read a page ahead, with all that its checks ask of the database."""
        rows = await self._ledger.pool.fetch(
            load("events.sql", "verify_page"), self._ledger_id, after, PAGE_EVENTS, PAGE_BYTES
        )
        misplaced = await self._misplaced(rows)
        unknown = await self._unknown({row["stream"] for row in rows if row["version"] == 1})
        keys = await self._opened({row["stream"] for row in rows if row["ciphertext"] is not None})
        missing = {row["stream"] for row in rows if row["ciphertext"] is None or keys.get(row["stream"]) is None}
        return _Page(rows, keys, misplaced, unknown, await self._deleted(missing))

    async def _check_head(self, end: int, chain: bytes, recorded_at: datetime) -> None:
        if chain != self.chain:
            raise _Bad(max(end, 1), "the head's chain value is not the last event's")
        beyond = await self._ledger.pool.fetchval(
            "select e.position from ledger.event e join ledger.head h using (ledger_id)"
            " where e.ledger_id = $1 and e.position > h.position order by e.position limit 1",
            self._ledger_id,
        )
        if beyond is not None:
            raise _Bad(beyond, "stands beyond the head")
        if end and codec.time_column(codec.microseconds(recorded_at)) != self.recorded:
            raise _Bad(end, "the head's time is not the last event's")

    async def _check_streams(self) -> None:
        """Check every stream's row against its last events; each page is one statement, so one snapshot."""
        after = UUID(int=0)
        while page := await self._ledger.pool.fetch(
            load("events.sql", "verify_streams"), self._ledger_id, after, PAGE_STREAMS
        ):
            for row in page:
                found = _stream_differs(row)
                if found is not None:
                    raise _Bad(row["position"] or self.position, f"the row of its stream {row['stream']} {found}")
            after = page[-1]["stream"]

    async def _check_rows(self) -> None:
        """Check what stands beside the record: the ledger's own row, and that no key or payload is there of nothing."""
        for query, found in _BESIDE.items():
            stray = await self._ledger.pool.fetchval(query, self._ledger_id)
            if stray is not None:
                raise _Bad(self.position, found.format(stray))
        outside = await self._ledger.pool.fetchval(load("events.sql", "payload_outside"), self._ledger_id)
        if outside is not None:
            raise _Bad(self.position, f"there is a payload at position {outside}, which no event has")
        await self._check_batches()

    async def _check_batches(self) -> None:
        """Check that every batch that is still in Postgres is of an event, once."""
        place: tuple[UUID, int, datetime] | None = (UUID(int=0), 0, datetime.min.replace(tzinfo=UTC))
        while place is not None:
            row = await self._ledger.pool.fetchrow(
                load("events.sql", "verify_batches"), self._ledger_id, *place, PAGE_BATCHES
            )
            if row["stray"] is not None:
                raise _Bad(row["stray"], "there is a batch of telemetry of no event at this position")
            place = row["following"]

    async def _unknown(self, streams: set[bytes]) -> set[bytes]:
        if not streams:
            return set()
        rows = await self._ledger.pool.fetch(
            "select s.stream from unnest($2::uuid[]) as s(stream) where not exists"
            " (select from ledger.stream l where l.ledger_id = $1 and l.stream = s.stream)",
            self._ledger_id,
            _ids(streams),
        )
        return {row["stream"].bytes for row in rows}

    async def _check(self, rows: Sequence[asyncpg.Record], page: _Page) -> None:
        """Check rows in order, giving way to others (and to the next page) every now and then."""
        ledger_id = self._ledger_id.bytes
        for count, row in enumerate(rows):
            if count % EVENTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
            event_id, stream, version, kind = row[:4]
            commitment, position, recorded, chain, salt, ciphertext, astray = row[COVERED - 1 : COVERED + 6]
            if position != self.position + 1:
                raise _Bad(self.position + 1, f"missing: the next event is at position {position}")
            if recorded < self.recorded:
                raise _Bad(position, "recorded before the event in front of it")
            leads_to = codec.chain(self.chain, position, recorded, codec.body(ledger_id, *row[:COVERED]))
            if leads_to != chain:
                raise _Bad(position, "its columns do not lead to its chain value")
            if version is not None and page.misplaced.get(stream) == version:
                raise _Bad(position, f"version {version} does not follow on its stream's last one")
            if version == 1 and stream in page.unknown:
                raise _Bad(position, "its stream has no row in ledger.stream")
            if astray:
                raise _Bad(position, "a batch of telemetry has a payload" if version is None else _ASTRAY)
            survives = kind in SURVIVES_ERASURE
            owner = ledger_id if survives else stream
            key = page.keys.get(owner)
            if ciphertext is not None and key is not None:
                _check_payload(event_id, commitment, position, salt, ciphertext, key)
            elif stream in page.deleted and not survives:
                self.erased += 1
            elif ciphertext is not None:
                is_there = "does not open under this master key" if owner in page.keys else "is not"
                raise _Bad(position, f"its payload is there, but the key to it {is_there}")
            elif kind in TELEMETRY and await self._is_archived(stream, kind, position):
                self.archived += 1
            else:
                raise _Bad(position, "its payload is missing, and nothing on record explains that")
            self.position, self.recorded, self.chain = position, recorded, chain
            self.checked += 1

    async def _opened(self, streams: set[bytes]) -> Mapping[bytes, DataKey | None]:
        """Return the data keys of streams and the ledger's own, None where one does not open; erased ones have none."""
        wanted = {self._ledger_id.bytes, *streams}
        known: dict[bytes, DataKey | None] = {stream: self._keys[stream] for stream in wanted if stream in self._keys}
        if len(known) < len(wanted):
            missing = _ids(wanted - known.keys())
            for row in await self._ledger.pool.fetch(load("events.sql", "read_keys"), self._ledger_id, missing):
                known[row["stream"].bytes] = self._unwrapped(row["wrapped"])
        _keep(self._keys, known)
        return known

    def _unwrapped(self, wrapped: bytes) -> DataKey | None:
        try:
            return self._ledger.keyring.unwrap(wrapped)
        except CorruptHistory:
            return None

    async def _misplaced(self, page: Sequence[asyncpg.Record]) -> Mapping[bytes, int]:
        """Return, by stream, the first version of the page that does not follow on the one before it.

        Where a stream stood is asked of Postgres only if none of its events was among those read lately.
        """
        first: dict[bytes, int] = {}
        last: dict[bytes, int] = {}
        bad: dict[bytes, int] = {}
        for row in page:
            stream, version = row["stream"], row["version"]
            if version is None:
                continue
            before = last.get(stream) or self._versions.get(stream)
            if before is None:
                first[stream] = version
            elif version != before + 1:
                bad.setdefault(stream, version)
            last[stream] = version
        if first:
            rows = await self._ledger.pool.fetch(
                load("events.sql", "verify_versions"),
                self._ledger_id,
                _ids(first),
                list(first.values()),
                page[0]["position"],
            )
            bad.update({row["stream"].bytes: row["version"] for row in rows})
        _keep(self._versions, last)
        return bad

    async def _deleted(self, streams: set[bytes]) -> set[bytes]:
        if not streams:
            return set()
        rows = await self._ledger.pool.fetch(load("events.sql", "read_deletions"), self._ledger_id, _ids(streams))
        return {row["stream"].bytes for row in rows}

    async def _is_archived(self, stream: bytes, kind: str, position: int) -> bool:
        known = self._archivals.get(stream)
        if known is None:
            known = self._archivals[stream] = await self._read_archivals(UUID(bytes=stream))
            if len(self._archivals) > _CACHED_ARCHIVALS:
                self._archivals.popitem(last=False)
        return any(one.kind == _KINDS[kind] and one.first_position <= position <= one.last_position for one in known)

    async def _read_archivals(self, stream: UUID) -> list[RunTelemetryArchived]:
        """Return what says that a stream's telemetry was archived; raises `_Bad` for one that was altered."""
        key = (await self._opened({stream.bytes})).get(stream.bytes)
        if key is None:
            return []
        rows = await self._ledger.pool.fetch(load("events.sql", "read_archivals"), self._ledger_id, stream)
        events = []
        for row in rows:
            try:
                payload = key.unseal(row["ciphertext"], row["event_id"].bytes)
            except CorruptHistory:
                raise _Bad(row["position"], "its payload was altered") from None
            events.append(codec.decode("run.telemetry_archived", 1, payload))
        return [event for event in events if isinstance(event, RunTelemetryArchived)]


def _stream_differs(row: asyncpg.Record) -> str | None:
    """Say what of a stream's row is not what its events lead to, or None."""
    if row["last"] is None:
        return "stands for no event"
    if row["version"] != row["last"]:
        return f"says version {row['version']}, its events {row['last']}"
    if row["epoch"] < row["attempt"]:
        return f"says epoch {row['epoch']}, an event of it {row['attempt']}"
    if (row["gate"] == GATE_ERASED) != row["deleted"]:
        return f"says gate {row['gate']}, and its events that it was {'' if row['deleted'] else 'not '}deleted"
    if row["remains"] is not None:
        return f"stands for a run that was purged, and {row['remains']} of it is there"
    return None


def _check_payload(
    event_id: bytes, commitment: bytes, position: int, salt: bytes, ciphertext: bytes, key: DataKey
) -> None:
    try:
        payload = key.unseal(ciphertext, event_id)
    except CorruptHistory:
        raise _Bad(position, "its payload was altered") from None
    if codec.commitment(salt, payload) != commitment:
        raise _Bad(position, "its payload is not the one that it commits to")


def _keep(cache: OrderedDict[bytes, K], latest: Mapping[bytes, K]) -> None:
    """Remember what some streams have; of so many, those that came last."""
    cache.update(latest)
    for stream in latest:
        cache.move_to_end(stream)
    while len(cache) > _CACHED_STREAMS:
        cache.popitem(last=False)


def _ids(streams: Iterable[bytes]) -> list[UUID]:
    return [UUID(bytes=stream) for stream in streams]
