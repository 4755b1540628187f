"""A ledger with runs that log, an archiver and readers, on a real database: what the telemetry tests share."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np

from events import codec
from events.commands import AttachRun, CreateRun, DeleteRun, EndRun
from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Appended, Draft, Ledger, Proposal
from events.organisation import ProjectCreated
from events.run_events import RunCreated
from events.sql import load
from events.telemetry import STREAMS, LogColumns, MetricColumns
from events.types import Mode, Status
from projections import runs, tenancy
from projections.analytics import Analytics
from projections.archive.stores import Directory, Store
from projections.charts.buckets import Series
from projections.charts.groups import Group
from projections.charts.questions import Question, axis, checked
from projections.charts.series import Chart, Charts, GroupChart
from projections.execute import asked_by, execute, record
from projections.logs import Logs
from projections.runs import StoredRun
from projections.storage.artifact_limits import Limits
from projections.storage.artifacts import Artifact
from projections.storage.objects import ObjectStore
from projections.storage.upload_writer import Wanted
from projections.storage.uploads import Uploads
from workers.archive_policy import Policy
from workers.archiver import Archiver

ACTOR = "key:test"
MASTER_KEY = b"m" * 32
AT_ONCE = Policy(age_seconds=0, tail_seconds=0, hot_bytes=1)
TIME_US = 1_790_000_000_000_000

Points = Mapping[str, tuple[Sequence[int], Sequence[float]]]


class World:
    """One project's ledger and a directory for Parquet."""

    def __init__(self, pool: asyncpg.Pool, root: Path, store: Store | None = None) -> None:
        self.pool = pool
        self.store = store or Directory(root)
        self.root = self.store.root
        self.objects = ObjectStore.at(root.with_name("objects"))
        self.ledger = Ledger(pool, Keyring(MASTER_KEY))
        self.ledger_id = uuid7()
        self.analytics = Analytics(self.store, threads=2, queries=2)
        self.charts = Charts(self.ledger, self.analytics)
        self.logs = Logs(self.ledger, self.analytics)
        self.organisation_id = uuid7()
        self._seq = 0

    async def started_run(self) -> UUID:
        run_id = uuid7()
        created = RunCreated(name=f"run {run_id}", session_id="s", mode=Mode.TRACKED)
        for command in (CreateRun(created=created), AttachRun()):
            await execute(self.ledger, self.ledger_id, run_id, command, asked_by(ACTOR))
        return run_id

    async def readers_pass(self) -> None:
        """Have everybody who reads payloads by position pass all that there is."""
        head, _ = await self.ledger.head(self.ledger_id)
        for reader in ("relay", "alerter"):
            await self.pool.execute(load("events.sql", "move_cursor"), reader, self.ledger_id, head)
        for projection in ("credits", "metrics", "search"):
            await self.pool.execute(
                "insert into checkpoint values ($1, $2, $3)"
                " on conflict (projection, ledger_id) do update set position = excluded.position",
                projection,
                self.ledger_id,
                head,
            )

    async def end(self, run_id: UUID) -> None:
        command = EndRun(epoch=1, status=Status.COMPLETED)
        await execute(self.ledger, self.ledger_id, run_id, command, asked_by(ACTOR))

    async def delete(self, run_id: UUID) -> None:
        await execute(self.ledger, self.ledger_id, run_id, DeleteRun(), asked_by(ACTOR))

    async def save(self, run_id: UUID, name: str, data: bytes, **described: str) -> Artifact:
        """Save an artifact."""
        uploads = Uploads(self.ledger, self.objects, Limits())
        wanted = Wanted(name=name, bytes=len(data), **{"kind": "file", **described})
        artifact, _ = await uploads.save(await self.stored(run_id), self.organisation_id, wanted, body(data), ACTOR)
        return artifact

    async def stored(self, run_id: UUID) -> StoredRun:
        stored = await runs.get(self.pool, run_id)
        assert stored is not None
        return stored

    async def chart(self, run_id: UUID, metrics: Sequence[str], *, x: str = "step", **asked: Any) -> list[Series]:
        """Return one run's series."""
        chart = await self.charted([run_id], Question(metrics=tuple(metrics), axis=axis(x), **asked))
        return chart.runs[0].series

    async def charted(self, run_ids: Sequence[UUID], question: Question) -> Chart:
        """Return a chart of runs."""
        runs = [await self.stored(run_id) for run_id in run_ids]
        return await self.charts.chart(runs, checked(question, len(runs)), lambda chart: chart)

    async def grouped(self, run_ids: Sequence[UUID], question: Question, *groups: Group) -> GroupChart:
        """Return a chart of groups of runs."""
        runs = [await self.stored(run_id) for run_id in run_ids]
        return await self.charts.groups(runs, checked(question, len(groups)), groups, lambda chart: chart)

    async def log(self, run_id: UUID, kind: str, batch: MetricColumns | LogColumns) -> Appended:
        self._seq += 1
        return await self.ledger.append(
            Proposal(
                ledger_id=self.ledger_id,
                stream=run_id,
                event_id=uuid7(),
                actor=ACTOR,
                occurred_at=datetime.now(UTC),
                drafts=[Draft(type=kind, payload=codec.encode_batch(batch), schema_version=codec.PACKED)],
                request=str(self._seq).encode(),
                epoch=1,
                source="sdk",
                seq=self._seq,
            )
        )

    async def metrics(self, run_id: UUID, points: Points, *, stage: str | None = None) -> Appended:
        return await self.log(run_id, codec.METRICS, metric_batch(points, stage=stage))

    async def lines(self, run_id: UUID, *texts: str, stream: str = "stdout") -> Appended:
        return await self.log(run_id, codec.LOGS, log_batch(texts, stream=stream))

    def archiver(self, policy: Policy = AT_ONCE) -> Archiver:
        return Archiver(self.ledger, self.store, self.objects, policy=policy)

    async def archive(self, policy: Policy = AT_ONCE) -> None:
        """Archive whatever waits, with an archiver that has just started."""
        await drained(self.archiver(policy))

    def elsewhere(self, store: Store) -> "World":
        """Return the same world as another process sees it, with a store of its own."""
        other = World(self.pool, self.root.with_name("other"), store)
        other.ledger, other.ledger_id, other.objects = self.ledger, self.ledger_id, self.objects
        other.charts, other.logs = Charts(other.ledger, other.analytics), Logs(other.ledger, other.analytics)
        return other

    def listed(self) -> set[str]:
        """Return the paths of all files that the store has, temporary ones too."""
        return {found.path for found in self.store.older_than(-60)}

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())


async def body(data: bytes) -> AsyncIterator[bytes]:
    """Yield a body as a client sends it."""
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


async def drained(archiver: Archiver) -> None:
    await archiver.start()
    while await archiver.step():
        pass
    await archiver.stop()


def metric_batch(points: Points, *, stage: str | None = None, time_us: int | None = None) -> MetricColumns:
    steps = np.concatenate([np.array(step, "<i8") for step, _ in points.values()])
    values = np.concatenate([np.array(value, "<f8") for _, value in points.values()])
    times = TIME_US + steps * 1000 if time_us is None else np.full(len(steps), time_us)
    return MetricColumns(
        names=tuple(points),
        counts=tuple(len(step) for step, _ in points.values()),
        step=steps.tobytes(),
        value=values.tobytes(),
        time_us=times.astype("<i8").tobytes(),
        stages=() if stage is None else (stage,),
        stage=None if stage is None else np.zeros(len(steps), "<u2").tobytes(),
    )


def log_batch(texts: Sequence[str], *, stream: str = "stdout") -> LogColumns:
    return LogColumns(
        time_us=(TIME_US + np.arange(len(texts), dtype="<i8")).tobytes(),
        stream=bytes([STREAMS.index(stream)]) * len(texts),
        text=tuple(texts),
    )


@asynccontextmanager
async def opened_world(database_url: str, root: Path, store: Store | None = None) -> AsyncIterator[World]:
    """Open a world whose Parquet files are in a directory, or in another store beside it."""
    pool = await open_pool(database_url, name="test")
    world = World(pool, root, store)
    await world.ledger.open(world.ledger_id, world.organisation_id, "project")
    await record(
        world.ledger,
        ledger_id=world.ledger_id,
        stream=world.ledger_id,
        expected_version=0,
        events=[ProjectCreated(name="p")],
        inline=tenancy.project_row(organisation_id=world.organisation_id, version=1, name="p", description=""),
        request=asked_by(ACTOR),
    )
    try:
        yield world
    finally:
        world.analytics.close()
        await world.ledger.drained()
        await pool.close()
