"""Commands on runs: read the state, decide, append; again if another process was faster (optimistic concurrency)."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from events import codec, decisions
from events.commands import CreateRun, DeleteRun, RunCommand
from events.errors import Erased, Rejected, TooLarge, VersionConflict
from events.ids import uuid7
from events.ledger import GATE_CLOSED, GATE_ERASED, GATE_OPEN, Appended, Draft, Ledger, Proposal
from events.run import NO_RUN, Run, evolve
from events.transitions import ENDED
from events.types import Status
from projections import runs
from projections.credits import credits_of, final
from projections.runs import StoredRun
from projections.tenancy import Rows

ATTEMPTS: Final = 20
LONGEST_PAUSE_SECONDS: Final = 0.2


class Outcome(msgspec.Struct, frozen=True):
    """The run after a command, and the ledger position that says so."""

    ledger_id: UUID
    run_id: UUID
    run: Run
    position: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for what: the ids and bytes by which a repetition is recognised, and the reporter's time."""

    actor: str
    event_id: UUID
    body: bytes = b""
    named: bool = False
    """The caller named the request (an idempotency key), so it may have been recorded before."""
    occurred_at: datetime


def asked_by(actor: str, now: datetime | None = None) -> Request:
    """Return a new, unnamed request."""
    return Request(actor=actor, event_id=uuid7(), occurred_at=now or datetime.now(UTC))


def draft(event: codec.LifecycleEvent) -> Draft:
    """Return an event ready for a proposal."""
    return Draft(
        type=codec.event_type(event),
        payload=codec.encode(event),
        schema_version=event.schema_version,
        cause=getattr(event, "cause", None),
        epoch=getattr(event, "epoch", None),
    )


async def execute(
    ledger: Ledger, ledger_id: UUID, run_id: UUID, command: RunCommand, request: Request, *, guard: Rows | None = None
) -> Outcome:
    """Carry out a command on a run and return the run after it.

    `guard` is what the append's transaction checks beside it (see `check_quota.sql`).

    A named request that was recorded before gives the first answer again; one that changed nothing left no event, and
    is decided anew. Raises what `decide` and `Ledger.append` raise, `VersionConflict` only after other processes were
    faster `ATTEMPTS` times, `Busy` when its turn at the run does not come.
    """
    async with ledger.turns.of(run_id):
        remembered: StoredRun | None = ledger.recent.get(run_id)
        unseen = isinstance(command, CreateRun)  # most likely nothing is there; if there is, the append says so
        for attempt in range(ATTEMPTS):
            known = remembered
            if known is None and not unseen:
                known = await runs.get(ledger.pool, run_id)
                answered = await answered_before(ledger, ledger_id, run_id, request)
                if answered is not None:  # asked after the state was read, which may be what this very request led to
                    return answered
            try:
                outcome = await _carry_out(ledger, ledger_id, run_id, command, request, known, guard or {})
            except VersionConflict:
                outcome = None
            except (Rejected, TooLarge):
                if remembered is None:
                    raise
                outcome = None  # perhaps only because others changed the run since
            if outcome is not None and (remembered is None or outcome.run.version != remembered.run.version):
                return outcome
            remembered, unseen = None, False
            ledger.recent.forget(run_id)
            if attempt > 1:  # another process is faster, as it need not read first: let it come to the end of its queue
                await asyncio.sleep(min(LONGEST_PAUSE_SECONDS, 0.001 * 2**attempt))
        raise VersionConflict(f"others changed this run {ATTEMPTS} times meanwhile")


async def _carry_out(
    ledger: Ledger,
    ledger_id: UUID,
    run_id: UUID,
    command: RunCommand,
    request: Request,
    known: StoredRun | None,
    guard: Rows,
) -> Outcome:
    """Decide on a known state and append. What is rejected may be rejected because that state is old."""
    run = NO_RUN if known is None else known.run
    if isinstance(command, DeleteRun) and run.status in ENDED:
        counted = await credits_of(ledger, ledger_id, run_id, run.version)
        command = msgspec.structs.replace(command, credits=final(counted))
    events = decisions.decide(command, run)
    if not events:
        return Outcome(ledger_id, run_id, run, 0 if known is None else known.position)
    after, state, inline = runs.inline_rows(run_id, run, events, request.actor)
    proposal = Proposal(
        ledger_id=ledger_id,
        stream=run_id,
        event_id=request.event_id,
        actor=request.actor,
        occurred_at=request.occurred_at,
        drafts=[draft(event) for event in events],
        request=request.body,
        expected_version=run.version,
        epoch=after.epoch,
        gate=gate(after),
        inline={**inline, **guard},
        state=state,
    )
    appended = await ledger.append(proposal)
    if appended.repeated:
        return await _first_answer(ledger, ledger_id, run_id, appended)
    if state is None or state.progressed:  # else no time is pending
        after = runs.settled(after, appended.recorded_at)
    stored = StoredRun(ledger_id=ledger_id, run_id=run_id, position=appended.last, run=after)
    size = len(inline[runs.PROJECT_RUN][0].row if state is None else state.state)
    ledger.recent.keep(run_id, stored, size)
    return Outcome(ledger_id, run_id, after, appended.last)


async def answered_before(ledger: Ledger, ledger_id: UUID, run_id: UUID, request: Request) -> Outcome | None:
    """Return the first answer to a named request that was recorded before, or None."""
    stored = await ledger.stored(ledger_id, request.event_id, request.body) if request.named else None
    return None if stored is None else await _first_answer(ledger, ledger_id, run_id, stored)


def gate(run: Run) -> int:
    """Return whether the ledger takes telemetry for a run in this state."""
    if run.status is Status.DELETED:
        return GATE_ERASED
    return GATE_CLOSED if run.status is Status.QUEUED or run.epoch == 0 else GATE_OPEN


async def as_of(ledger: Ledger, ledger_id: UUID, run_id: UUID, version: int | None = None) -> tuple[Run, int]:
    """Return a run folded from the ledger up to a version, with the position of its last event.

    Raises `Erased` where the history's payloads are gone.
    """
    run, position = NO_RUN, 0
    for recorded in await ledger.read_stream(ledger_id, run_id, up_to=version):
        run = evolve(run, recorded.event(), recorded.recorded_at)
        position = recorded.position
    return run, position


async def _first_answer(ledger: Ledger, ledger_id: UUID, run_id: UUID, stored: Appended) -> Outcome:
    try:
        run, position = await as_of(ledger, ledger_id, run_id, stored.version)
    except Erased:
        known = await runs.get(ledger.pool, run_id)
        if known is None or known.run.status is not Status.DELETED or known.run.version != stored.version:
            raise
        run, position = known.run, known.position
    return Outcome(ledger_id, run_id, run, position)


async def record(
    ledger: Ledger,
    *,
    ledger_id: UUID,
    stream: UUID,
    expected_version: int,
    events: Sequence[codec.LifecycleEvent],
    inline: Rows,
    request: Request,
) -> Appended:
    """Append the events of a stream that is no run: a project, workflow, organisation, key or worker."""
    return await ledger.append(
        Proposal(
            ledger_id=ledger_id,
            stream=stream,
            event_id=request.event_id,
            actor=request.actor,
            occurred_at=request.occurred_at,
            drafts=[draft(event) for event in events],
            request=request.body,
            expected_version=expected_version,
            epoch=0,
            inline=inline,
        )
    )
