"""Everything that can be checked of a ledger: the record itself, and what was made from it.

    report = await audit(ledger, ledger_id, places)
    assert report.verified, report.first_bad

First the record (see `events.verification`), then a signed head if one is given, the archived files, inline
projections and credits against a fresh fold, and JetStream's copy. The first thing that is wrong is named; what comes
after it is not looked at.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from events.heads import SignedHead, check_heads
from events.ledger import Ledger
from events.run_events import RunTelemetryArchived
from events.verification import FirstBad, Progress, verify
from projections.archive.parquet import File
from projections.archive.stores import Store
from projections.refold import check_projections
from projections.transport import SAMPLE_MESSAGES, check_transport

log = logging.getLogger("tachograph.verification")

Say = Callable[[str, int, int], None]
"""Called with what is being checked, how far that is, and its end."""

_ARCHIVED: Final = "run.telemetry_archived"
_PAGE_EVENTS: Final = 100


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where the copies are: the application role's database URL, the archive, JetStream if it can be asked."""

    database_url: str
    archive: Store
    jetstream: JetStreamContext | None = None
    sample: int | None = SAMPLE_MESSAGES
    """How many of each JetStream stream's newest messages are compared; None: all."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found; see `Verification` for the first fields.

    `files` archived files, `rows` of projections and `messages` of JetStream were compared; `messages` is None
    where JetStream could not be asked. `head` is the position of the signed head that the ledger still leads to.
    """

    verified: bool
    position: int
    first_bad: FirstBad | None
    checked: int
    erased: int
    archived: int
    files: int = 0
    rows: int = 0
    messages: int | None = None
    head: int | None = None


async def audit(
    ledger: Ledger,
    ledger_id: UUID,
    places: Places,
    *,
    heads: Sequence[SignedHead] = (),
    progress: Say | None = None,
) -> Report:
    """Check everything. The heads must be expected ones of this ledger. Raises `NotFound`."""
    say = progress or (lambda *_: None)
    report = Report(
        **msgspec.structs.asdict(await verify(ledger, ledger_id, progress=lambda at, end: say("record", at, end)))
    )
    bad = await check_heads(ledger, heads)
    if bad is not None and (report.first_bad is None or bad.position < report.first_bad.position):
        return _bad(report, bad)
    if not report.verified:
        return report
    report = replace(report, head=max((head.position for head in heads), default=None))
    files, bad = await check_files(ledger, ledger_id, places.archive, progress=lambda at, end: say("files", at, end))
    report = replace(report, files=files)
    if bad is not None:
        return _bad(report, bad)
    rows, bad = await check_projections(
        ledger, places.database_url, ledger_id, progress=lambda at, end: say("projections", at, end)
    )
    report = replace(report, rows=rows)
    if bad is not None or places.jetstream is None:
        return _bad(report, bad)
    try:
        messages, bad = await check_transport(
            ledger,
            places.jetstream,
            ledger_id,
            sample=places.sample,
            progress=lambda at, end: say("JetStream", at, end),
        )
    except (NatsError, TimeoutError) as error:
        log.warning("JetStream could not be compared: %r", error)
        return report
    return _bad(replace(report, messages=messages), bad)


def _bad(report: Report, bad: FirstBad | None) -> Report:
    return report if bad is None else replace(report, verified=False, first_bad=bad)


async def check_files(
    ledger: Ledger, ledger_id: UUID, store: Store, *, progress: Progress | None = None
) -> tuple[int, FirstBad | None]:
    """Return how many archived files have the bytes that their event says, and the first that has not."""
    checked = after = 0
    end, _ = await ledger.head(ledger_id)
    replaced = await _replaced(ledger, ledger_id)
    while page := await ledger.read(ledger_id, after=after, limit=_PAGE_EVENTS, types=[_ARCHIVED]):
        for recorded in page:
            if recorded.payload is None:
                continue
            event: RunTelemetryArchived = recorded.event()
            if event.segment in replaced:
                continue  # another file stands for it, which is checked
            for one in (event, event.levels) if event.levels is not None else (event,):
                file = File(one.path, one.bytes, one.sha256)
                differs = await asyncio.to_thread(store.differs, file)
                if differs is not None and not await _is_deleted(ledger, ledger_id, recorded.stream):
                    return checked, FirstBad(recorded.position, f"{file.path} {differs}")
                checked += 1
        after = page[-1].position
        if progress is not None:
            progress(after, max(after, end))
    return checked, None


async def _replaced(ledger: Ledger, ledger_id: UUID) -> set[UUID]:
    """Return the files that were merged into others."""
    replaced: set[UUID] = set()
    after = 0
    while page := await ledger.read(ledger_id, after=after, limit=_PAGE_EVENTS, types=[_ARCHIVED]):
        for recorded in page:
            if recorded.payload is not None:
                replaced.update(recorded.event().replaces)
        after = page[-1].position
    return replaced


async def _is_deleted(ledger: Ledger, ledger_id: UUID, stream: UUID) -> bool:
    found: bool = await ledger.pool.fetchval(
        "select exists (select from ledger.stream where ledger_id = $1 and stream = $2 and gate = 2)", ledger_id, stream
    )
    return found
