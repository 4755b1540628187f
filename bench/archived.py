"""A ledger of a benchmark's own, with runs that log, and an archiver of its own that nobody else's roles disturb."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from bench.database import own_database
from bench.harness import Void
from events import codec
from events.commands import AttachRun, CreateRun, EndRun
from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Draft, Ledger, Proposal
from events.run_events import RunCreated
from events.telemetry import MetricColumns
from events.types import Mode, Status
from projections.archive.stores import Directory
from projections.execute import asked_by, execute
from projections.storage.objects import ObjectStore
from stack.postgres import Postgres
from workers.archive_policy import Policy
from workers.archiver import Archiver

ACTOR: Final = "key:bench"


class Archive:
    """Runs in one ledger, and the directory of their files."""

    def __init__(self, ledger: Ledger, home: Path) -> None:
        self._ledger = ledger
        self._ledger_id = uuid7()
        self._objects = ObjectStore.at(home / "objects")
        self.root = home / "parquet"
        self._seq = 0

    async def open(self) -> None:
        """Open the ledger."""
        await self._ledger.open(self._ledger_id, uuid7(), "project")

    async def run(self) -> UUID:
        """Start a run."""
        run_id = uuid7()
        created = RunCreated(name=f"run {run_id}", session_id="bench", mode=Mode.TRACKED)
        for command in (CreateRun(created=created), AttachRun()):
            await execute(self._ledger, self._ledger_id, run_id, command, asked_by(ACTOR))
        return run_id

    async def log(self, run_id: UUID, batches: Iterable[MetricColumns]) -> int:
        """Append batches, as the route for metrics does; returns how many points."""
        points = 0
        for batch in batches:
            self._seq += 1
            await self._ledger.append(
                Proposal(
                    ledger_id=self._ledger_id,
                    stream=run_id,
                    event_id=uuid7(),
                    actor=ACTOR,
                    occurred_at=datetime.now(UTC),
                    drafts=[Draft(type=codec.METRICS, payload=codec.encode_batch(batch), schema_version=codec.PACKED)],
                    request=b"bench",
                    epoch=1,
                    source="sdk",
                    seq=self._seq,
                )
            )
            points += batch.points
        return points

    async def end(self, run_id: UUID) -> None:
        """End a run."""
        command = EndRun(epoch=1, status=Status.COMPLETED)
        await execute(self._ledger, self._ledger_id, run_id, command, asked_by(ACTOR))

    async def archiver(self, policy: Policy) -> Archiver:
        """Return an archiver that has started."""
        archiver = Archiver(self._ledger, Directory(self.root), self._objects, policy=policy)
        await archiver.start()
        return archiver

    async def event_bytes(self) -> str:
        """Say what the slim rows of events take that stay in Postgres."""
        row = await self._ledger.pool.fetchrow(
            "select pg_total_relation_size('ledger.event') as bytes, (select count(*) from ledger.event) as events"
        )
        return f"Slim event rows with their indexes: {row['bytes'] / row['events']:.0f} bytes an event."

    async def files(self, run_id: UUID, points: int) -> list[tuple[Path, int, int]]:
        """Return a run's files with their bytes and those of their levels. Raises `Void` where a point is missing."""
        rows = await self._ledger.pool.fetch(
            "select path, rows, bytes, coalesce(levels_bytes, 0) as levels from segment"
            " where ledger_id = $1 and run_id = $2 order by first_position",
            self._ledger_id,
            run_id,
        )
        found = sum(row["rows"] for row in rows)
        if found != points:
            raise Void(f"{points:,} points were acknowledged, {found:,} are in Parquet")
        return [(self.root / row["path"], row["bytes"], row["levels"]) for row in rows]


async def drained(archiver: Archiver) -> None:
    """Let an archiver work until nothing is left to do."""
    while await archiver.step():
        pass


@asynccontextmanager
async def own_archive(postgres: Postgres, home: Path) -> AsyncIterator[Archive]:
    """Give an archive on a database of its own, below a directory."""
    async with own_database(postgres) as database:
        pool = await open_pool(postgres.url(database=database), name="bench")
        try:
            archive = Archive(Ledger(pool, Keyring(os.urandom(32))), home)
            await archive.open()
            yield archive
        finally:
            await pool.close()
