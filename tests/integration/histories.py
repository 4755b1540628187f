"""A project with a ledger of its own, and histories to fill it with."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import numpy as np

from events import codec, organisation, run_events
from events import commands as c
from events import types as t
from events.database import open_pool
from events.errors import Fenced, Rejected
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Appended, Draft, Ledger, Proposal
from events.telemetry import LogColumns, MetricColumns
from events.types import Cause, Mode, Status
from projections import runs, tenancy
from projections.execute import Outcome, asked_by, execute, record
from workers.projector import Projector

ACTOR = "key:test"
MASTER_KEY = b"m" * 32
RATE = t.Rate(micro_credits_per_hour=36 * 10**12 + 7, count=3)  # over thirty micro-credits a microsecond


class Project:
    """One project of one organisation."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.ledger = Ledger(pool, Keyring(MASTER_KEY))
        self.ledger_id = uuid7()
        self.organisation_id = uuid7()
        self.runs: list[UUID] = []
        self._seq = 0

    async def open(self) -> None:
        """Open the ledger with its first event."""
        await self.ledger.open(self.ledger_id, self.organisation_id, "project")
        name = f"project {self.ledger_id}"
        row = tenancy.project_row(organisation_id=self.organisation_id, version=1, name=name, description="")
        await self.note(self.ledger_id, 0, [organisation.ProjectCreated(name=name)], row)

    async def note(
        self, stream: UUID, version: int, events: Sequence[codec.LifecycleEvent], inline: tenancy.Rows
    ) -> Appended:
        """Record events of a stream that is no run."""
        return await record(
            self.ledger,
            ledger_id=self.ledger_id,
            stream=stream,
            expected_version=version,
            events=events,
            inline=inline,
            request=asked_by(ACTOR),
        )

    async def do(self, run_id: UUID, command: c.RunCommand) -> Outcome:
        """Carry a command out."""
        return await execute(self.ledger, self.ledger_id, run_id, command, asked_by(ACTOR))

    async def create(self, mode: Mode = Mode.TRACKED, **fields: object) -> UUID:
        """Create a run."""
        run_id = uuid7()
        given = {"name": f"run {run_id}", "session_id": "s", "mode": mode, **fields}
        await self.do(run_id, c.CreateRun(created=run_events.RunCreated(**given)))
        self.runs.append(run_id)
        return run_id

    async def started(self, **fields: object) -> UUID:
        """Create and start a run."""
        run_id = await self.create(estimate_seconds=3600.0, **fields)
        await self.do(run_id, c.AttachRun(rate=RATE))
        return run_id

    async def ended(self) -> UUID:
        """Create, start and complete a run."""
        run_id = await self.started()
        await self.do(run_id, c.EndRun(epoch=1, status=Status.COMPLETED))
        return run_id

    async def erased(self, run_id: UUID) -> None:
        """Delete a run and erase what it held, as the purge does."""
        await self.do(run_id, c.DeleteRun(reason="asked to"))
        await self.pool.execute("delete from segment where run_id = $1", run_id)
        await self.pool.execute("delete from artifact where run_id = $1", run_id)
        objects, size = await self.ledger.erase(self.ledger_id, run_id)
        await self.do(run_id, c.RecordPurge(receipt={"postgres": t.StoreReceipt(objects=objects, bytes=size)}))

    def telemetry(
        self, run_id: UUID, *, seq: int, epoch: int = 1, request: bytes = b"r", payloads: Sequence[bytes] = ()
    ) -> Proposal:
        """Return a proposal of telemetry in one part, or as many as there are payloads."""
        drafts = [Draft(type=codec.METRICS, payload=payload) for payload in payloads or (codec.encode(points(3)),)]
        return Proposal(
            ledger_id=self.ledger_id,
            stream=run_id,
            event_id=uuid7(),
            actor=ACTOR,
            occurred_at=datetime.now(UTC),
            drafts=drafts,
            request=request,
            epoch=epoch,
            source="sdk",
            seq=seq,
        )

    async def log(self, run_id: UUID, batch: MetricColumns | LogColumns, *, epoch: int = 1) -> Appended:
        """Record a batch with a seq of its own."""
        self._seq += 1
        kind = codec.METRICS if isinstance(batch, MetricColumns) else codec.LOGS
        proposal = self.telemetry(run_id, seq=self._seq, epoch=epoch)
        draft = Draft(type=kind, payload=codec.encode(batch))
        return await self.ledger.append(
            Proposal(**{name: getattr(proposal, name) for name in Proposal.__struct_fields__} | {"drafts": [draft]})
        )

    async def project_all(self) -> None:
        """Bring every asynchronous projection up to date."""
        projector = Projector(self.ledger)
        while await projector.step():
            pass
        assert not projector.lagging

    async def live_at_random(self, random_: random.Random, steps: int) -> None:
        """Do anything that can be done to runs, some of it refused."""
        for _ in range(steps):
            if not self.runs or random_.random() < 0.15:
                workflow = t.WorkflowRef(id=UUID(int=random_.randrange(1, 3)), name="w")
                await self.create(
                    random_.choice(list(Mode)),
                    workflow=random_.choice([None, workflow]),
                    protection=random_.random() < 0.3,
                    estimate_seconds=random_.choice([None, 3600.0, 1e-6]),
                    config={"lr": random_.random(), "deep": {"x": [1, None, "ü"]}},
                )
            run_id = random_.choice(self.runs)
            stored = await runs.get(self.pool, run_id)
            assert stored is not None
            try:
                if random_.random() < 0.35:
                    batch = random_.choice([points(random_.randrange(1, 9), random_), lines("a", "b")])
                    await self.log(run_id, batch, epoch=max(stored.run.epoch, 1))
                elif stored.run.status is Status.DELETED and stored.run.receipt is None:
                    await self.erased(run_id)
                else:
                    await self.do(run_id, _anything(random_, stored.run.epoch))
            except (Rejected, Fenced):
                continue


def _anything(random_: random.Random, epoch: int) -> c.RunCommand:
    commands: list[c.RunCommand] = [
        c.ClaimRun(worker=UUID(int=1), command_id=uuid7(), accelerators=("cpu:0",), rate=RATE),
        c.ReportStarted(epoch=epoch),
        c.AttachRun(rate=random_.choice([None, RATE])),
        c.AttachRun(rate=RATE),
        c.RequeueRun(epoch=epoch),
        c.ReportStopping(epoch=epoch, exit_code=1),
        c.ReportIdle(epoch=epoch),
        c.EndRun(epoch=epoch, status=Status.COMPLETED, last_seq={"sdk": 3}),
        c.EndRun(epoch=epoch, status=Status.FAILED, error=t.Failure(type="E", message="m", traceback="t")),
        c.KillRun(reason="enough"),
        c.ConfirmKill(),
        c.MarkCrashed(epoch=epoch, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0),
        c.MarkResponsive(epoch=epoch, silence_seconds=1.0),
        c.MarkUnresponsive(epoch=epoch, last_heartbeat_at=datetime.now(UTC), silence_seconds=1.0),
        c.ReportProgress(epoch=epoch, done=random_.random()),
        c.EditRun(tags=("a", "b"), notes="n", summary={"acc": random_.random()}),
        c.EditRun(config={"lr": None, "deep": {"x": 1}}),
        c.SetPrimaryMetric(name="loss", mode="min"),
        c.SaveArtifact(
            name=random_.choice(["m", "ü/d"]),
            kind="model",
            bytes=random_.randrange(9),
            sha256="0" * 64,
            caption="c",
            artifact=uuid7(),
            blob=uuid7(),
            part_bytes=4,
        ),
        c.ArchiveRun(archived=random_.random() < 0.5),
        c.DeleteRun(reason="asked to"),
    ]
    return random_.choice(commands)


def points(count: int, random_: random.Random | None = None) -> MetricColumns:
    """Return a batch of two series with `count` and one points."""
    random_ = random_ or random.Random(count)
    odd = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0]
    values = [random_.choice([*odd, random_.random(), random_.random()]) for _ in range(count + 1)]
    return MetricColumns(
        names=(random_.choice(["loss", "acc"]), "lr"),
        counts=(count, 1),
        step=np.array([random_.randrange(9) for _ in range(count + 1)], "<i8").tobytes(),
        value=np.array(values, "<f8").tobytes(),
        time_us=np.array([random_.randrange(10**15) for _ in range(count + 1)], "<i8").tobytes(),
    )


def lines(*texts: str) -> LogColumns:
    """Return a batch of lines of standard output."""
    return LogColumns(time_us=np.arange(len(texts), dtype="<i8").tobytes(), stream=bytes(len(texts)), text=tuple(texts))


@asynccontextmanager
async def opened_project(database_url: str) -> AsyncIterator[Project]:
    """Open a project on a database."""
    pool = await open_pool(database_url, name="test")
    project = Project(pool)
    await project.open()
    try:
        yield project
    finally:
        await project.ledger.drained()
        await pool.close()
