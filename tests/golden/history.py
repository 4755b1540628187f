"""A release lives: `python -m history migrate OWNER_URL`, `python -m history live URL PARQUET_DIRECTORY`.

It is run twice. Once when the release is made, to fill the database that is kept of it; and ever after from the kept
source of that release, on the schema of a newer one, since the older code goes on running while a newer one is rolled
out. So it uses the release's own packages alone, and whatever happens to fail does so loudly. `live` prints what is
to be read back, as JSON.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import msgspec
import numpy as np

from events import alerts, codec, organisation, run_events, search_space, sweep, trials
from events import commands as c
from events import types as t
from events.database import open_pool
from events.heads import Signer
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Appended, Draft, Ledger, Proposal
from events.sql import load
from events.telemetry import LogColumns, MetricColumns
from events.verification import verify
from events.workflow import Workflow
from events.workflow import evolve as evolve_workflow
from projections import credits, metrics, runs, subscriptions, sweeps, tenancy, workflows
from projections.archive.stores import Directory
from projections.execute import Request, asked_by, execute, record
from projections.storage.objects import ObjectStore
from service.commands.bootstrap import ORGANISATION, first_keys
from service.commands.migrate import migrate
from workers.alerter import Alerter
from workers.archive_policy import Policy
from workers.archiver import Archiver
from workers.projector import Projector
from workers.sweeper import Sweeper

MASTER_KEY = b"m" * 32
SIGNING_SEED = b"s" * 32
ACTOR = "key:history"
RATE = t.Rate(micro_credits_per_hour=36 * 10**12 + 7, count=3)
AT_ONCE = Policy(age_seconds=0, tail_seconds=0, hot_bytes=1)


class History:
    """A project of the default organisation, with runs that come to every end."""

    def __init__(self, pool: asyncpg.Pool, root: Path) -> None:
        self.pool = pool
        self.root = root
        self.ledger = Ledger(pool, Keyring(MASTER_KEY))
        self.ledger_id = uuid7()
        self.workflow = uuid7()
        self.worker = uuid7()
        self.runs: dict[str, UUID] = {}
        self.seq = 0
        self.named: Request | None = None

    async def live(self) -> None:
        """Do everything; runs are archived in between."""
        await first_keys(self.pool, self.ledger.keyring)
        await self.tenants()
        await self.managed("killed", c.KillRun(reason="enough"), c.ConfirmKill())
        await self.managed("idle", c.ReportStopping(epoch=1, exit_code=0), c.ReportIdle(epoch=1, exit_code=0))
        await self.create("queued", command=("python", "train.py"))
        await self.search()
        error = t.Failure(type="E", message="m", traceback="t")
        await self.tracked("failed", c.EndRun(epoch=1, status=t.Status.FAILED, error=error, last_seq={"sdk": 3}))
        lost = c.MarkCrashed(epoch=1, cause=t.Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0)
        await self.tracked("crashed", lost)
        await self.tracked("recovered", lost, c.MarkResponsive(epoch=1, silence_seconds=50.0))
        await self.tracked("deleted", c.EndRun(epoch=1, status=t.Status.COMPLETED))
        await self.tracked("completed", *self.edits(), c.EndRun(epoch=1, status=t.Status.COMPLETED))
        await self.follow()
        await self.archive()
        await self.do("deleted", c.DeleteRun(reason="asked to"))
        await self.follow()
        await self.archive()  # and purges
        await self.tracked("running", c.ReportProgress(epoch=1, done=1.0, total=2.0, unit="epochs"))
        self.named = Request(
            actor=ACTOR, event_id=uuid7(), body=b"named", named=True, occurred_at=datetime.now(UTC)
        )  # fmt: skip
        await self.do("running", c.EditRun(notes="named"), self.named)
        await self.tracked("unpurged", c.EndRun(epoch=1, status=t.Status.COMPLETED), c.DeleteRun(reason="and this"))
        await self.follow()

    async def tenants(self) -> None:
        """A project, a workflow that changed, a worker that was lost, a rule that fires, a webhook."""
        name = f"project {self.ledger_id}"
        await self.ledger.open(self.ledger_id, ORGANISATION, "project")
        for version, event in enumerate(
            (
                organisation.ProjectCreated(name=name, organisation=ORGANISATION),
                organisation.ProjectChanged(name=name, description="d"),
            )
        ):
            row = tenancy.project_row(
                organisation_id=ORGANISATION, version=version + 1, name=name, description=event.description or ""
            )
            await self.note(self.ledger_id, self.ledger_id, version, event, row)
        recipe = Workflow()
        for version, event in enumerate(
            (
                organisation.WorkflowCreated(name="w", command=("python", "train.py"), training_parameters={"lr": 0.1}),
                organisation.WorkflowRenamed(name="workflow"),
                organisation.WorkflowChanged(architecture="cnn", training_parameters={"lr": 0.2}),
            )
        ):
            recipe = evolve_workflow(recipe, event)
            await self.note(self.ledger_id, self.workflow, version, event, workflows.row(self.workflow, recipe))
        registered = organisation.WorkerRegistered(
            worker=self.worker, name=f"worker {self.worker}", host={"cpus": 2}, slots=(organisation.Slot(id="cpu:0"),)
        )
        first = await self.note(ORGANISATION, self.worker, 0, registered, tenancy.worker_row(registered, version=1))
        lost = organisation.WorkerLost(worker=self.worker)
        since = first.recorded_at.isoformat()
        rows = tenancy.worker_row(registered, version=2, at=since, lost_at="infinity")
        await self.note(ORGANISATION, self.worker, 1, lost, rows)
        for event in (
            alerts.AlertRuleSet(
                project=self.ledger_id, name="too low", condition=alerts.MetricBeyond("loss", alerts.Side.BELOW, 0.1)
            ),
            alerts.AlertRuleSet(
                project=self.ledger_id, name="ended", condition=alerts.StatusBecomes((t.Status.COMPLETED,))
            ),
            alerts.WebhookSet(project=self.ledger_id, url="http://127.0.0.1:9/", types=("run.failed", "alert.fired")),
        ):
            identity = uuid7()
            await self.note(ORGANISATION, identity, 0, event, subscriptions.row(identity, event, version=1))

    async def search(self) -> None:
        """A sweep of the workflow, with a trial that waits."""
        sweep_id = uuid7()
        created = sweep.SweepCreated(
            name="search",
            workflow=self.workflow,
            workflow_version=3,
            method=sweep.Method.GRID,
            parameters={"lr": search_space.Categorical(values=(0.1, 0.2))},
            metric=sweep.Objective(name="loss", goal=sweep.Goal.MIN),
            max_runs=2,
        )
        await self.note(
            self.ledger_id, sweep_id, 0, created, sweeps.row(sweep_id, sweep.evolve(sweep.Sweep(), created))
        )
        if await Sweeper(self.ledger).step() != 1:
            raise AssertionError("the sweep made no trial, or more than one")
        self.runs["trial"] = trials.trial_id(sweep_id, 1)

    async def note(
        self, ledger_id: UUID, stream: UUID, version: int, event: codec.LifecycleEvent, rows: tenancy.Rows
    ) -> Appended:
        return await record(
            self.ledger,
            ledger_id=ledger_id,
            stream=stream,
            expected_version=version,
            events=[event],
            inline=rows,
            request=asked_by(ACTOR),
        )

    async def do(self, name: str, command: c.RunCommand, request: Request | None = None) -> None:
        await execute(self.ledger, self.ledger_id, self.runs[name], command, request or asked_by(ACTOR))

    async def create(self, name: str, **fields: object) -> None:
        self.runs[name] = uuid7()
        mode = t.Mode.MANAGED if "command" in fields else t.Mode.TRACKED
        created = run_events.RunCreated(
            name=name,
            session_id="s",
            mode=mode,
            config={"lr": 0.1, "deep": {"x": [1, None, "ü"]}},
            tags=("a",),
            **fields,
        )
        await self.do(name, c.CreateRun(created=created))

    async def managed(self, name: str, *commands: c.RunCommand) -> None:
        """A run that a worker claimed and started, and what became of it."""
        await self.create(name, command=("python", "train.py"), protection=True)
        claim = c.ClaimRun(worker=self.worker, command_id=uuid7(), accelerators=("cpu:0",), rate=RATE)
        prepared = c.ReportPreparation(epoch=1, stage="assets", fraction=0.5)
        for command in (claim, prepared, c.ReportStarted(epoch=1, pid=7), *commands):
            await self.do(name, command)

    async def tracked(self, name: str, *commands: c.RunCommand) -> None:
        """A run that logged, and what became of it."""
        await self.create(name, estimate_seconds=3600.0, external_id=name)
        await self.do(name, c.AttachRun(rate=RATE))
        for batch in (points(9), lines("one", "two"), points(3)):
            await self.log(name, batch)
        for command in commands:
            await self.do(name, command)

    def edits(self) -> Sequence[c.RunCommand]:
        return (
            c.EditRun(config={"lr": None, "deep": {"x": 1}}),
            c.EditRun(tags=("a", "b"), notes="n", summary={"acc": 0.5}, alias="best"),
            c.SetPrimaryMetric(name="loss", mode="min"),
            c.ArchiveRun(),
            c.ArchiveRun(archived=False),
        )

    async def log(self, name: str, batch: MetricColumns | LogColumns) -> None:
        """Record a batch twice: the second time is the first."""
        self.seq += 1
        proposal = Proposal(
            ledger_id=self.ledger_id,
            stream=self.runs[name],
            event_id=uuid7(),
            actor=ACTOR,
            occurred_at=datetime.now(UTC),
            drafts=[
                Draft(
                    type=codec.METRICS if isinstance(batch, MetricColumns) else codec.LOGS, payload=codec.encode(batch)
                )
            ],
            request=str(self.seq).encode(),
            epoch=1,
            source="sdk",
            seq=self.seq,
        )
        first = await self.ledger.append(proposal)
        again = await self.ledger.append(proposal)
        assert (first.position, again.repeated) == (again.position, True)

    async def follow(self) -> None:
        """Bring the projections and the alerter up to date; the relay has nothing to publish to."""
        for role in (Projector(self.ledger), Alerter(self.ledger)):
            await role.start()
            while await role.step():
                pass
        head, _ = await self.ledger.head(self.ledger_id)
        await self.pool.execute(load("events.sql", "move_cursor"), "relay", self.ledger_id, head)

    async def archive(self) -> None:
        objects = ObjectStore.at(self.root.with_name("objects"))
        archiver = Archiver(self.ledger, Directory(self.root), objects, policy=AT_ONCE)
        await archiver.start()
        while await archiver.step():
            pass
        await archiver.stop()

    async def expected(self) -> dict[str, object]:
        """Return what is to be read back, whatever has happened to the schema since."""
        verification = await verify(self.ledger, self.ledger_id)
        assert verification.verified, verification.first_bad
        position, chain = await self.ledger.head(self.ledger_id)
        head = Signer(SIGNING_SEED).sign(self.ledger_id, position, chain, datetime.now(UTC))
        assert self.named is not None
        events = await self.ledger.read(self.ledger_id)
        return {
            "ledger_id": str(self.ledger_id),
            "head": msgspec.to_builtins(head),
            "named": {"event_id": str(self.named.event_id), "body": self.named.body.decode()},
            "events": [[one.position, one.type, one.version, one.payload is not None] for one in events],
            "runs": {name: await self.described(run_id) for name, run_id in self.runs.items()},
        }

    async def described(self, run_id: UUID) -> dict[str, object]:
        stored = await runs.get(self.pool, run_id)
        assert stored is not None
        costs = await credits.of_runs(self.pool, [run_id], stored.run.ended_at or datetime.now(UTC))
        run = stored.run
        return {
            "id": str(run_id),
            "status": str(run.status),
            "version": run.version,
            "epoch": run.epoch,
            "config": run.config,
            "tags": list(run.tags),
            "notes": run.notes,
            "consumed_micro": costs[run_id].consumed_micro if run.ended_at else None,
            "metrics": {
                one["name"]: [one["count"], one["last_step"]] for one in await metrics.summaries(self.pool, stored)
            },
        }


def points(count: int) -> MetricColumns:
    """Two series with awkward values: `loss` with `count` points, `lr` with one."""
    values = [float("nan"), float("inf"), -0.0, *(1 / (step + 1) for step in range(count))][: count + 1]
    return MetricColumns(
        names=("loss", "lr"),
        counts=(count, 1),
        step=np.arange(count + 1, dtype="<i8").tobytes(),
        value=np.array(values, "<f8").tobytes(),
        time_us=np.arange(count + 1, dtype="<i8").tobytes(),
    )


def lines(*texts: str) -> LogColumns:
    return LogColumns(time_us=np.arange(len(texts), dtype="<i8").tobytes(), stream=bytes(len(texts)), text=tuple(texts))


async def live(url: str, root: Path) -> dict[str, object]:
    """Live on a database and return what is to be read back."""
    pool = await open_pool(url, name="history")
    try:
        history = History(pool, root)
        await history.live()
        return await history.expected()
    finally:
        await pool.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["migrate", owner_url]:
            asyncio.run(migrate(owner_url))
        case ["live", database_url, directory]:
            sys.stdout.write(json.dumps(asyncio.run(live(database_url, Path(directory))), indent=1) + "\n")
        case _:
            sys.exit(__doc__)
