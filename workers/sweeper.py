"""The sweeper: makes the trials of sweeps that run, finishes these, and kills the runs of those that were cancelled.

It keeps nothing: which trials there are stands in the runs. A trial's id and its name follow from its number, and its
append is refused unless the sweep is running, so that dying anywhere, or two of us, makes each trial once.
"""

import asyncio
import logging
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg

from events.commands import KillRun
from events.errors import Rejected, VersionConflict
from events.ledger import Ledger
from events.sweep import Method, Sweep, SweepFinished, SweepStatus
from events.transitions import ENDED
from events.trials import trial, trial_id
from events.types import Cause, Mode, Status
from events.workflow import reference, run_of
from projections import sweeps, workflows
from projections.apply import checkpoint
from projections.execute import asked_by, execute
from projections.metrics import Metrics
from projections.new_runs import open_run
from projections.sweeps import Due, Tried
from workers.crashpoints import crash_point
from workers.proposals import Result, proposed

log = logging.getLogger("tachograph.sweeper")

ACTOR: Final = "system:sweeper"
PAGE: Final = 100
AT_ONCE: Final = 20
"""How many trials of one sweep are made in a step, so that others get their turn."""
KILLS_AT_ONCE: Final = 100


class Sweeper:
    """Makes trials; see the module."""

    name = "sweeper"
    pause_seconds = 0.5
    gather_seconds = 0.25

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._after = UUID(int=0)

    async def start(self) -> None:
        """Begin with the first sweep."""
        self._after = UUID(int=0)

    async def stop(self) -> None:
        """Nothing is held."""

    async def step(self) -> int:
        """Kill what was cancelled, and bring a page of sweeps forward; returns how many events that made.

        What goes wrong with one sweep is raised after the others had their turn.
        """
        done = await self._kill()
        page = await sweeps.due(self._ledger.pool, self._after, PAGE)
        self._after = page[-1].stored.sweep_id if len(page) == PAGE else UUID(int=0)
        failures: list[Exception] = []
        for due in page:
            try:
                done += await self._advance(due)
            except (Rejected, VersionConflict) as refusal:
                log.info("sweep %s: %s", due.stored.sweep_id, refusal)
            except Exception as error:  # noqa: BLE001 (raised below)
                error.add_note(f"sweep {due.stored.sweep_id}")
                failures.append(error)
        if failures:
            raise ExceptionGroup("sweeps that cannot be brought forward", failures)
        return done + (len(page) == PAGE)

    async def _kill(self) -> int:
        """Ask for the end of what was cancelled; a crashed trial that comes back is asked then."""
        killed = 0
        command = KillRun(cause=Cause.SWEEP_CANCELLED, reason="its sweep was cancelled")
        for stored in await sweeps.cancelled(self._ledger.pool, KILLS_AT_ONCE):
            try:
                await execute(self._ledger, stored.ledger_id, stored.run_id, command, asked_by(ACTOR))
            except (Rejected, VersionConflict) as refusal:
                log.info("run %s: %s", stored.run_id, refusal)
                continue
            crash_point("sweeper.after_kill")
            killed += 1
        return killed

    async def _advance(self, due: Due) -> int:
        """Make a sweep's next trials, or finish it."""
        sweep = due.stored.sweep
        if due.made >= sweep.max_runs:
            return await self._finish(due) if due.open == 0 else 0
        wanted = min(sweep.concurrency - due.open, sweep.max_runs - due.made, AT_ONCE)
        made = 0
        for number in range(due.made + 1, due.made + wanted + 1):
            parameters = await self._parameters(due, number)
            if parameters is None or not await self._make(due, number, parameters):
                break
            crash_point("sweeper.after_trial")
            made += 1
        return made

    async def _parameters(self, due: Due, number: int) -> dict[str, Any] | None:
        """Return the parameters of a trial, or None while it is not yet known what the others came to."""
        sweep = due.stored.sweep
        if sweep.method is not Method.BAYES:
            return proposed(sweep, number, ())
        tried = await sweeps.trials(self._ledger.pool, due.stored, 0, number)
        ended = max((one.stored.position for one in tried if one.stored.run.status in ENDED), default=0)
        if (await checkpoint(self._ledger.pool, Metrics.name, due.stored.ledger_id)).position < ended:
            return None
        tried = await sweeps.trials(self._ledger.pool, due.stored, 0, number)
        history = [_result(one) for one in tried if one.stored.run.status is not Status.DELETED]
        return await asyncio.to_thread(proposed, sweep, number, history)

    async def _make(self, due: Due, number: int, parameters: dict[str, Any]) -> bool:
        """Create a trial; returns whether the sweep was still running."""
        stored = due.stored
        sweep, run_id = stored.sweep, trial_id(stored.sweep_id, number)
        pinned = await workflows.at_version(self._ledger, stored.ledger_id, sweep.workflow, sweep.workflow_version)
        base = run_of(pinned.workflow, reference(sweep.workflow, pinned.workflow), Mode.MANAGED)
        wanted = trial(base, stored.sweep_id, number, parameters)
        try:
            await open_run(
                self._ledger,
                stored.ledger_id,
                run_id,
                wanted,
                asked_by(ACTOR),
                workflow=pinned.workflow.name,
                chance=Random(str(run_id)),  # noqa: S311 (is to be repeated)
                guard=sweeps.guard(stored.sweep_id),
            )
        except asyncpg.PostgresError as error:
            if error.sqlstate != sweeps.NOT_RUNNING:
                raise
            return False
        return True

    async def _finish(self, due: Due) -> int:
        def decide(sweep: Sweep) -> tuple[SweepFinished, ...]:
            return (SweepFinished(),) if sweep.status is SweepStatus.RUNNING else ()

        await sweeps.change(self._ledger, due.stored.sweep_id, decide, asked_by(ACTOR))
        crash_point("sweeper.after_finish")
        return 1


def _result(tried: Tried) -> Result:
    """Return what a trial tells the search: a value only if it completed."""
    run = tried.stored.run
    assert run.trial is not None
    completed = run.status is Status.COMPLETED
    return Result(run.trial.parameters, run.status in ENDED, tried.value if completed else None)
