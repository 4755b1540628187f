"""An organisation with workers and runs in any state, and a clock that moves when told: for the roles that watch."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from events.beats import Beat
from events.commands import AttachRun, ClaimRun, CreateRun, KillRun, ReportStarted, RunCommand
from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import (
    OrganisationCreated,
    ProjectCreated,
    Slot,
    WorkerRegistered,
)
from events.run import Run
from events.run_events import RunCreated
from events.types import Liveness, Mode, Rate, Resources
from projections import runs, tenancy
from projections.execute import asked_by, execute, record

ACTOR = "key:test"
LIVENESS = Liveness(beat_seconds=5, unresponsive_seconds=15, crashed_seconds=45)


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def worker_beat(worker: UUID, runs: Mapping[UUID, int] | None = None, *, draining: bool = False) -> Beat:
    """Return a worker's sign of life."""
    return Beat(sender=str(worker), kind="worker", runs=dict(runs or {}), draining=draining)


class Fleet:
    """One organisation with one project."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.ledger = Ledger(pool, Keyring(b"f" * 32))
        self.organisation_id = uuid7()
        self.ledger_id = uuid7()
        self.kinds: dict[UUID, str] = {}

    async def open(self, *, max_active_runs: int) -> None:
        """Open both ledgers."""
        organisation = OrganisationCreated(name="o", max_active_runs=max_active_runs)
        row = tenancy.organisation_row(version=1, name="o", max_active_runs=max_active_runs)
        await self.ledger.open(self.organisation_id, self.organisation_id, "organisation")
        await self._record(self.organisation_id, self.organisation_id, organisation, row)
        project = tenancy.project_row(organisation_id=self.organisation_id, version=1, name="p", description="")
        await self.ledger.open(self.ledger_id, self.organisation_id, "project")
        await self._record(self.ledger_id, self.ledger_id, ProjectCreated(name="p"), project)

    async def _record(
        self, ledger_id: UUID, stream: UUID, event: OrganisationCreated | ProjectCreated | WorkerRegistered, row: object
    ) -> None:
        await record(
            self.ledger,
            ledger_id=ledger_id,
            stream=stream,
            expected_version=0,
            events=[event],
            inline=row,  # type: ignore[arg-type]
            request=asked_by(ACTOR),
        )

    async def worker(self, name: str, slots: int = 1, kind: str = "cpu") -> UUID:
        """Register a worker."""
        every = tuple(Slot(id=f"{kind}:{index}", kind=kind) for index in range(slots))
        registered = WorkerRegistered(worker=uuid7(), name=name, slots=every)
        row = tenancy.worker_row(registered, version=1)
        await self._record(self.organisation_id, registered.worker, registered, row)
        self.kinds[registered.worker] = kind
        return registered.worker

    async def do(self, run_id: UUID, command: RunCommand) -> Run:
        """Carry out a command."""
        return (await execute(self.ledger, self.ledger_id, run_id, command, asked_by(ACTOR))).run

    async def queued(self, resources: Resources | None = None, *, priority: int = 0, retries: int = 0) -> UUID:
        """Create a managed run."""
        run_id = uuid7()
        created = RunCreated(
            name=f"r {run_id}",
            session_id="s",
            mode=Mode.MANAGED,
            command=("true",),
            resources=resources or Resources(),
            liveness=LIVENESS,
            priority=priority,
            retries=retries,
        )
        await self.do(run_id, CreateRun(created=created))
        return run_id

    async def claim(self, run_id: UUID, worker: UUID) -> Run:
        """Let a worker take a run."""
        needed = (await self.run(run_id)).resources or Resources()
        slots = tuple(f"{needed.accelerator}:{index}" for index in range(needed.count))
        rate = Rate(micro_credits_per_hour=0, count=needed.count)
        kinds = (self.kinds[worker],) * needed.count
        claim = ClaimRun(worker=worker, command_id=uuid7(), accelerators=slots, rate=rate, kinds=kinds)
        return await self.do(run_id, claim)

    async def managed(self, worker: UUID, *, retries: int = 0) -> UUID:
        """Return a run that runs in a worker's hands."""
        run_id = await self.queued(retries=retries)
        run = await self.claim(run_id, worker)
        await self.do(run_id, ReportStarted(epoch=run.epoch))
        return run_id

    async def tracked(self, liveness: Liveness = LIVENESS) -> UUID:
        """Return a run that runs as its user's own process."""
        run_id = uuid7()
        created = RunCreated(name=f"r {run_id}", session_id="s", mode=Mode.TRACKED, liveness=liveness)
        await self.do(run_id, CreateRun(created=created))
        await self.do(run_id, AttachRun())
        return run_id

    async def kill(self, run_id: UUID, grace_seconds: float = 10) -> None:
        """Ask for a run's end."""
        await self.do(run_id, KillRun(grace_seconds=grace_seconds))

    async def run(self, run_id: UUID) -> Run:
        """Return a run as it is."""
        stored = await runs.get(self.pool, run_id)
        assert stored is not None
        return stored.run

    async def types(self, run_id: UUID) -> list[str]:
        """Return what happened to a run."""
        return [recorded.type for recorded in await self.ledger.read_stream(self.ledger_id, run_id)]


@asynccontextmanager
async def opened_fleet(database_url: str, *, max_active_runs: int = 5) -> AsyncIterator[Fleet]:
    pool = await open_pool(database_url, name="test")
    try:
        fleet = Fleet(pool)
        await fleet.open(max_active_runs=max_active_runs)
        yield fleet
        await fleet.ledger.drained()
    finally:
        await pool.close()
