"""What runs cost, in integer micro-credits: the pure fold, and the asynchronous projection of it.

A segment, from one transition to the next, costs `count * rate * seconds / 3600` while the status is charged. What
has come up so far is rounded half up, and each part is the difference of two such totals; so any split, by day in
UTC or by status, adds up to the whole. Times are the ledger's own (`recorded_at`).
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.errors import CorruptHistory
from events.ledger import Fact, Ledger
from events.run_events import (
    RunCrashed,
    RunCreated,
    RunDeleted,
    RunEvent,
    RunImported,
    RunRecovered,
    RunRequeued,
    RunStarted,
    RunStarting,
)
from events.sql import load
from events.transitions import ENDED, TRANSITIONS
from events.types import FinalCredits, Rate, Status
from projections.apply import Connection, older, present
from projections.runs import Reader

HOUR_US: Final = 3_600_000_000
HALF: Final = HOUR_US // 2
_DAY: Final = timedelta(days=1)
_MICROSECOND: Final = timedelta(microseconds=1)


class RunCredits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run has cost up to its last transition, at `since`, and how it goes on.

    `remainder` is what the cumulative total is ahead of its last whole micro-credit, plus a half, in units of a
    micro-credit / 3.6e9.
    """

    status: Status = Status.ABSENT
    before_crash: Status | None = None
    since: datetime | None = None
    workflow_id: UUID | None = None
    estimate_seconds: float | None = None
    estimate_micro: int | None = None
    rate: Rate | None = None
    remainder: int = HALF
    by_day: dict[str, int] = {}
    by_status: dict[Status, int] = {}

    @property
    def consumed_micro(self) -> int:
        """The whole."""
        return sum(self.by_status.values())

    @property
    def saved_micro(self) -> int | None:
        """What an end before the estimate saved; None before the end, or without an estimate."""
        if self.estimate_micro is None or self.status not in ENDED | {Status.DELETED}:
            return None
        return max(0, self.estimate_micro - self.consumed_micro)

    @property
    def accruing(self) -> bool:
        """Whether time costs now."""
        return self.rate is not None and self.status in self.rate.charged and _per_hour(self.rate) > 0


NO_CREDITS: Final = RunCredits()


def evolve(credits_: RunCredits, event: RunEvent, at: datetime) -> RunCredits:
    """Close the segment that the transition ends and begin the next one.

    Raises `CorruptHistory` for an event that is no transition of the run's status.
    """
    if isinstance(event, RunDeleted):
        return _final(event.credits, at)
    step = (credits_.status, type(event))
    if step not in TRANSITIONS:
        raise CorruptHistory(f"{event.__struct_config__.tag} is no transition of a run that is {credits_.status}")
    recovered = isinstance(event, RunRecovered)
    billed = credits_.before_crash if recovered else credits_.status
    closed = accrue(credits_, billed or credits_.status, at)
    moved = replace(
        closed,
        status=TRANSITIONS[step] or credits_.before_crash or credits_.status,
        since=at,
        before_crash=credits_.status if isinstance(event, RunCrashed) else None,
    )
    match event:
        case RunCreated():
            workflow_id = event.workflow.id if event.workflow else None
            return replace(moved, workflow_id=workflow_id, estimate_seconds=event.estimate_seconds)
        case RunImported():
            return replace(moved, workflow_id=event.created.workflow.id if event.created.workflow else None)
        case RunStarting():
            return _pinned(moved, event.rate)
        case RunStarted():
            return _pinned(moved, event.rate or moved.rate)
        case RunRequeued():
            return _pinned(moved, None)
        case _:
            return moved


def accrue(credits_: RunCredits, status: Status, until: datetime) -> RunCredits:
    """Charge the time from `since` until a moment as time in `status`."""
    rate, since = credits_.rate, credits_.since
    if rate is None or since is None or status not in rate.charged or until <= since:
        return credits_
    by_day, remainder, charged = dict(credits_.by_day), credits_.remainder, 0
    for day, microseconds in _days(since, until):
        micro, remainder = divmod(remainder + _per_hour(rate) * microseconds, HOUR_US)
        charged += micro
        if micro:
            by_day[day.isoformat()] = by_day.get(day.isoformat(), 0) + micro
    by_status = {**credits_.by_status, status: credits_.by_status.get(status, 0) + charged}
    return replace(credits_, since=until, by_day=by_day, by_status=by_status, remainder=remainder)


def as_of(credits_: RunCredits, now: datetime) -> RunCredits:
    """Return the credits with the open segment charged up to `now`."""
    return accrue(credits_, credits_.status, now)


def final(credits_: RunCredits) -> FinalCredits:
    """Return what a deletion has to carry, because it outlives the events that it was counted from."""
    return FinalCredits(
        workflow_id=credits_.workflow_id,
        estimate_micro=credits_.estimate_micro,
        by_day=credits_.by_day,
        by_status=credits_.by_status,
    )


def _final(carried: FinalCredits, at: datetime) -> RunCredits:
    return RunCredits(
        status=Status.DELETED,
        since=at,
        workflow_id=carried.workflow_id,
        estimate_micro=carried.estimate_micro,
        by_day=carried.by_day,
        by_status=carried.by_status,
    )


def _pinned(credits_: RunCredits, rate: Rate | None) -> RunCredits:
    estimate = None
    if rate is not None and credits_.estimate_seconds is not None:
        estimate = (_per_hour(rate) * round(credits_.estimate_seconds * 1_000_000) + HALF) // HOUR_US
    return replace(credits_, rate=rate, estimate_micro=estimate)


def _per_hour(rate: Rate) -> int:
    return rate.count * rate.micro_credits_per_hour


def _days(since: datetime, until: datetime) -> Iterator[tuple[date, int]]:
    """Cut a span at midnights UTC; yields each day with its microseconds."""
    at = since.astimezone(UTC)
    while at < until:
        midnight = datetime.combine(at.date() + _DAY, time(), UTC)
        end = min(midnight, until)
        yield at.date(), (end - at) // _MICROSECOND
        at = end


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(RunCredits)


def decoded(state: bytes) -> RunCredits:
    """Return the credits that a row's `state` holds."""
    return _decoder.decode(state)


async def credits_of(ledger: Ledger, ledger_id: UUID, run_id: UUID, version: int) -> RunCredits:
    """Return a run's credits at a version, counted from the ledger itself. Raises `Erased` once that is gone."""
    counted = NO_CREDITS
    for recorded in await ledger.read_stream(ledger_id, run_id, up_to=version):
        if recorded.type in Credits.types:
            counted = evolve(counted, recorded.event(), recorded.recorded_at)
    return counted


class RunCost(msgspec.Struct, frozen=True):
    """What a run has cost at some moment, in micro-credits; see `RunCredits`."""

    consumed_micro: int
    estimate_micro: int | None
    saved_micro: int | None


async def of_runs(reader: Reader, run_ids: Sequence[UUID], now: datetime) -> dict[UUID, RunCost]:
    """Return what runs cost until `now`; runs that the projection has not seen yet are missing."""
    rows = await reader.fetch(load("projections.sql", "run_credits"), run_ids)
    return {row["run_id"]: cost(row["state"], now) for row in rows}


def cost(state: bytes, now: datetime) -> RunCost:
    """Return what the run has cost until `now` whose credits a row's `state` holds."""
    counted = as_of(decoded(state), now)
    return RunCost(counted.consumed_micro, counted.estimate_micro, counted.saved_micro)


class Credits:
    """The asynchronous projection: one row a run, and one a run and day."""

    name = "credits"
    tables = ("run_credit", "credit_day")
    page_events = 1_000
    types = tuple(sorted({str(event.__struct_config__.tag) for _, event in TRANSITIONS}))

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Fold the transitions of a page; a run whose history was erased has what its deletion carries."""
        events = await present(connection, ledger_id, events)
        known = older(events)
        rows = await connection.fetch(load("projections.sql", "read_credits"), ledger_id, known) if known else []
        folded = {row["run_id"]: decoded(row["state"]) for row in rows}
        deleted = set()
        for recorded in events:
            before = folded.get(recorded.stream, NO_CREDITS)
            folded[recorded.stream] = evolve(before, recorded.event(), recorded.recorded_at)
            if folded[recorded.stream].status is Status.DELETED:
                deleted.add(recorded.stream)
        if deleted:
            await connection.execute(
                "delete from credit_day where ledger_id = $1 and run_id = any($2)", ledger_id, list(deleted)
            )
        await _write(connection, ledger_id, folded)


async def _write(connection: Connection, ledger_id: UUID, folded: Mapping[UUID, RunCredits]) -> None:
    states = list(folded.values())
    await connection.execute(
        load("projections.sql", "write_credits"),
        ledger_id,
        list(folded),
        [one.workflow_id for one in states],
        [one.status for one in states],
        [one.accruing for one in states],
        [one.consumed_micro for one in states],
        [one.estimate_micro for one in states],
        [one.saved_micro for one in states],
        [_encoder.encode(one) for one in states],
    )
    days = [(run_id, day, micro) for run_id, one in folded.items() for day, micro in one.by_day.items()]
    if days:
        await connection.execute(
            load("projections.sql", "write_credit_days"),
            ledger_id,
            [run_id for run_id, _, _ in days],
            [date.fromisoformat(day) for _, day, _ in days],
            [micro for _, _, micro in days],
        )
