"""One role of a small, known world dies at a named step; everything goes on, and is compared with what was recorded."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import pyarrow.parquet as pq
from nats.aio.client import Client

from events import codec
from events.ids import uuid7
from events.ledger import SURVIVES_ERASURE, Recorded
from projections import dead_letters
from projections.archive import parquet
from projections.archive.parquet import File
from projections.archive.stores import holding
from projections.archive.writing import Files, Written
from projections.rebuild import PROJECTIONS, rebuild
from projections.storage import artifacts
from projections.storage.artifact_limits import Limits
from projections.storage.artifacts import Artifact
from projections.storage.upload_writer import Wanted
from projections.storage.uploads import Uploads
from projections.verification import Places, audit
from service.commands.rebuild import projection
from stack.process import ROOT
from stack.system import OURS_ALONE
from tests.api import SECONDS
from tests.fault import messages
from tests.integration.telemetry import MASTER_KEY, World, body
from tests.servers import Database, NatsServer
from workers.archive_policy import Policy
from workers.archiver import Archiver
from workers.loop import Loop
from workers.projector import Projector
from workers.relay import Relay

EAGER = {
    "AGE": "0.000001",
    "TAIL": "0.000001",
    "UPKEEP": "0.001",
    "KEEP": "3600",
    "ORPHAN": "3600",
    "LINGER": "0.000001",
}
FINALLY = Policy(age_seconds=1e-9, tail_seconds=1e-9, orphan_seconds=1e-9, linger_seconds=1e-9)


class Stage:
    """A world with its stores, the roles that work on it, and what must be found in the end."""

    def __init__(
        self,
        world: World,
        database: Database,
        owner: asyncpg.Connection,
        nats: NatsServer,
        home: Path,
        client: Client,
        environment: Mapping[str, str] | None = None,
    ):
        self.world = world
        self.environment = environment or {"TACHOGRAPH_PARQUET": str(world.root)}
        self.database = database
        self.owner = owner
        self.nats = nats
        self.home = home
        self.client = client
        self.points: dict[tuple[UUID, str, int], float] = {}
        self.deleted: set[UUID] = set()
        self.runs: list[UUID] = []
        self.discarded = False
        self._spoiled: list[tuple[str, int, bytes]] = []

    # --- what happened before the death ----------------------------------------------------------------------

    async def run(self, *, batches: int = 3, ended: bool = False) -> UUID:
        """Let a run log; its points are remembered."""
        run_id = await self.world.started_run()
        for number in range(batches):
            steps = [3 * number + index for index in range(3)]
            await self.world.metrics(run_id, {"loss": (steps, [float(step) for step in steps])})
            self.points |= {(run_id, "loss", step): float(step) for step in steps}
        await self.world.lines(run_id, "one", "two")
        await self.world.save(run_id, "model.bin", run_id.bytes, kind="model")
        if ended:
            await self.world.end(run_id)
        self.runs.append(run_id)
        return run_id

    async def delete(self, run_id: UUID) -> None:
        """Delete an ended run; nothing of it may be found in the end."""
        await self.world.delete(run_id)
        self.forget(run_id)

    def forget(self, run_id: UUID) -> None:
        """Take note that a run's contents go."""
        self.deleted.add(run_id)
        self.points = {key: value for key, value in self.points.items() if key[0] != run_id}

    async def spoil(self, table: str, position: int) -> None:
        """Flip a bit of a payload, as a fault in storage would."""
        where = f"ledger.{table} where ledger_id = $1 and position = $2"
        was = await self.owner.fetchval(f"select ciphertext from {where}", self.world.ledger_id, position)
        self._spoiled.append((table, position, was))
        await self._put(table, position, was[:-1] + bytes([was[-1] ^ 1]))

    async def mend(self) -> None:
        """Put back what was spoiled."""
        for one in self._spoiled:
            await self._put(*one)

    async def _put(self, table: str, position: int, ciphertext: bytes) -> None:
        await self.owner.execute(
            f"update ledger.{table} set ciphertext = $3 where ledger_id = $1 and position = $2",
            self.world.ledger_id,
            position,
            ciphertext,
        )

    async def telemetry(self) -> int:
        """Return the position of the first batch of metrics."""
        (first, *_) = await self.world.ledger.read(self.world.ledger_id, types=[codec.METRICS], payloads=False)
        return first.position

    async def stale_upload(self) -> None:
        """Leave an upload that was cut, and that nobody went on with since the day before yesterday."""
        world = self.world
        uploads = Uploads(world.ledger, world.objects, Limits())
        wanted = Wanted(name="cut", kind="file", bytes=2 * artifacts.PART_BYTES)
        stored = await world.stored(self.runs[0])
        upload = await uploads.open(stored, world.organisation_id, wanted, uuid7())
        await uploads.receive(upload, 0, body(bytes(artifacts.PART_BYTES)))
        await self.owner.execute("update operation.upload set touched_at = now() - interval '2 days'")

    def stray(self) -> None:
        """Leave a file that no manifest names, as a death of the archiver does."""
        path = self.world.root / parquet.segment_path(self.world.ledger_id, uuid7(), "metrics", uuid7())
        data = b"PAR1"
        parquet.write_temporary(path, data)
        self.world.store.publish(Files(Written(path, 0, len(data), hashlib.sha256(data).hexdigest()), None))

    # --- the roles -------------------------------------------------------------------------------------------

    def relay(self) -> Relay:
        return Relay(self.world.ledger, self.client.jetstream())

    def archiver(self, policy: Policy = FINALLY) -> Archiver:
        return Archiver(
            self.world.ledger, self.world.store, self.world.objects, jetstream=self.client.jetstream(), policy=policy
        )

    async def caught_up(self, *roles: Loop) -> None:
        """Let roles work until none of them has anything left to do."""
        for role in roles:
            await role.start()
        async with asyncio.timeout(SECONDS):
            while sum([await role.step() for role in roles]):
                pass
        for role in roles:
            await role.stop()

    async def dies(self, role: str, point: str, **settings: str) -> None:
        """Run a role as the process it is until it has died at a step; fails where it does not."""
        child = await self.start(role, point, **settings)
        await self.died(child, point)

    async def start(self, role: str, point: str, **settings: str) -> asyncio.subprocess.Process:
        parquet = {f"TACHOGRAPH_ARCHIVE_{name}_SECONDS": text for name, text in {**EAGER, **settings}.items()}
        key = self.home / "master.key"
        key.write_bytes(MASTER_KEY)
        inherited = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
        with (self.home / "role.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "workers", role),
                cwd=ROOT,
                stderr=log,
                env=inherited
                | parquet
                | {
                    "TACHOGRAPH_HOME": str(self.home),
                    "TACHOGRAPH_DATABASE_URL": self.database.url,
                    "TACHOGRAPH_NATS_URL": self.nats.url("roles"),
                    "TACHOGRAPH_MASTER_KEY": str(key),
                    **self.environment,
                    "TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE": "1",
                    "TACHOGRAPH_CRASH_AT": point,
                },
            )

    async def died(self, child: asyncio.subprocess.Process, point: str) -> None:
        """Wait until a process has died at its step; it is killed, and the test fails, where it does not."""
        try:
            code = await asyncio.wait_for(child.wait(), SECONDS)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise AssertionError(f"never came to {point}:\n{(self.home / 'role.log').read_text()[-4_000:]}") from None
        assert code == -signal.SIGKILL, (self.home / "role.log").read_text()[-4_000:]

    # --- what must be so in the end ----------------------------------------------------------------------------

    async def check(self) -> None:
        """After everybody caught up, every store holds what was recorded, once."""
        await self.caught_up(self.relay(), Projector(self.world.ledger), self.archiver())
        history = await self.world.ledger.read(self.world.ledger_id, limit=10_000, payloads=False)
        await self._check_positions(len(history))
        await self._check_messages(history)
        await self._check_files()
        await self._check_artifacts()
        for run_id in self.deleted:
            kinds = [recorded.type for recorded in history if recorded.stream == run_id]
            assert kinds.count("run.purged") == 1
        letters = await dead_letters.of_ledger(self.world.pool, self.world.ledger_id, ["held", "retry"], (0, ""), 10)
        assert letters == []
        await self._check_projections()
        places = Places(
            database_url=self.database.url,
            archive=self.world.store,
            jetstream=self.client.jetstream(),
            sample=None,
        )
        report = await audit(self.world.ledger, self.world.ledger_id, places)
        assert report.first_bad is None

    async def _check_positions(self, head: int) -> None:
        cursors = dict(await self.world.pool.fetch("select reader, position from ledger.cursor"))
        assert cursors["relay"] == head
        assert cursors["archiver"] == head
        behind = await self.world.pool.fetch("select * from projection.checkpoint where position <> $1", head)
        assert behind == []

    async def _check_messages(self, history: Sequence[Recorded]) -> None:
        """A subscriber that skips positions it has passed sees every event once, in order."""
        living = [one for one in history if one.stream not in self.deleted or one.type in SURVIVES_ERASURE]
        for stream in ("EVENTS", "TELEMETRY"):
            expected = [one.position for one in living if (one.seq is not None) == (stream == "TELEMETRY")]
            found = await messages.stored(self.client.jetstream(), stream, self.world.ledger_id)
            own = {one.position for one in living}  # of a purged run, that there was an event may be said again
            assert [position for position in messages.applied(found) if position in own] == expected

    async def _check_files(self) -> None:
        """The files of the manifest hold every point once, and there are no others."""
        rows = await self.world.pool.fetch("select path, bytes, sha256, kind, run_id from projection.segment")
        async with holding(self.world.store, [File(*row[:3]) for row in rows]) as root:
            found = [
                ((row["run_id"], metric, step), value)
                for row in rows
                if row["kind"] == "metrics"
                for table in [pq.read_table(root / row["path"])]
                for metric, step, value in zip(
                    *(table.column(name).to_pylist() for name in ("metric", "step", "value")), strict=True
                )
            ]
        assert sorted(found, key=str) == sorted(self.points.items(), key=str)
        assert self.world.listed() == {row["path"] for row in rows}
        told = await self.world.ledger.read(self.world.ledger_id, types=["run.telemetry_archived"], limit=10_000)
        archived = [one.event() for one in told if one.stream not in self.deleted]
        assert len(archived) - len({one for event in archived for one in event.replaces}) == len(rows)

    async def _check_artifacts(self) -> None:
        """Every artifact can be read, and the object store has nothing else."""
        rows = await self.world.pool.fetch("select * from artifact")
        for row in rows:
            artifact = Artifact(**row)
            parts = artifacts.content(self.world.ledger, self.world.objects, artifact, 0, artifact.bytes - 1)
            content = b"".join([part async for part in parts])
            assert hashlib.sha256(content).hexdigest() == artifact.sha256
        found = {one.path.split("/")[-2] async for page in self.world.objects.pages(artifacts.ROOT) for one in page}
        assert found == {str(row["blob_id"]) for row in rows}
        assert await self.world.pool.fetchval("select count(*) from operation.upload") == 0

    async def _check_projections(self) -> None:
        for name in PROJECTIONS:
            if name == "metrics" and self.discarded:
                continue  # what somebody discarded is in the ledger still, and a rebuild takes it
            report = await rebuild(self.world.ledger, self.database.owner_url, projection(name, self.world.store))
            assert report.differences == []
