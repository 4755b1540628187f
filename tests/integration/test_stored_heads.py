"""Heads in the object store: one object each, never written over, taken back by `verify --stored-heads`."""

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from events.commands import EditRun
from events.heads import Signer, read_heads
from projections.execute import asked_by, execute
from projections.storage import stored_heads
from projections.storage.objects import ObjectStore
from stack.ports import free_port
from stack.process import ROOT
from tests.integration.telemetry import ACTOR, MASTER_KEY, World
from tests.object_stores import Place
from tests.servers import Database, NatsServer
from workers.heads import Heads


class Exporting:
    """A role that exports heads whenever it is asked to."""

    def __init__(self, world: World, home: Path, objects: ObjectStore) -> None:
        self.world = world
        self.now = 0.0
        self.role = Heads(
            world.ledger, home / "master.key", home / "heads", objects, seconds=60, clock=lambda: self.now
        )

    async def step(self, notes: str) -> None:
        """Let something happen, and the role see it."""
        run_id = await self.world.pool.fetchval("select run_id from run")
        command = EditRun(notes=notes)
        await execute(self.world.ledger, self.world.ledger_id, run_id, command, asked_by(ACTOR))
        self.now += 60
        await self.role.step()


async def test_heads_are_stored_once_each_and_verified(
    world: World, database: Database, nats: NatsServer, objects: ObjectStore, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "master.key").write_bytes(MASTER_KEY)
    await world.started_run()
    exporting = Exporting(world, tmp_path, objects)
    await exporting.role.start()
    for notes in ("one", "two", "three"):
        await exporting.step(notes)
    heads = await stored_heads.read(objects, world.ledger_id)
    assert heads == read_heads(exporting.role.file(world.ledger_id).read_bytes())
    assert len(heads) == 3

    await exporting.role.start()  # as after a restart: nothing is written over
    exporting.now += 60
    await exporting.role.step()
    assert await stored_heads.read(objects, world.ledger_id) == heads

    def verify() -> subprocess.CompletedProcess[str]:
        environment = os.environ | dict(place.environment) | {
            "TACHOGRAPH_HOME": str(tmp_path), "TACHOGRAPH_DATABASE_URL": database.url,
            "TACHOGRAPH_NATS_URL": nats.url(), "TACHOGRAPH_PARQUET": str(world.root),
            "TACHOGRAPH_OBJECT_STORE": place.url,
        }  # fmt: skip
        command = [sys.executable, "-m", "service", "verify", "--project", "p", "--stored-heads"]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    done = verify()
    assert (done.returncode, f"through the head signed at {heads[-1].position}" in done.stdout) == (0, True), done

    superuser = await asyncpg.connect(database.superuser_url)
    cut = heads[-1].position
    await superuser.execute(
        f"delete from ledger.event where position = {cut}; delete from ledger.payload where position = {cut};"
        f" update ledger.head h set position = {cut - 1}, chain = e.chain, recorded_at = e.recorded_at"
        f" from ledger.event e"
        f" where e.position = {cut - 1}; update ledger.stream set version = version - 1 where version > 1"
    )
    await superuser.close()
    done = verify()
    assert (done.returncode, f"there were {cut} events" in done.stdout) == (1, True), done


async def test_a_store_that_is_away_costs_no_head_and_gets_the_newest_later(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.started_run()
    with monkeypatch.context() as there:
        there.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        there.setenv("AWS_ACCESS_KEY_ID", "x")
        there.setenv("AWS_SECRET_ACCESS_KEY", "x")
        exporting = Exporting(world, tmp_path, ObjectStore.at("s3://away"))
        await exporting.role.start()
        await exporting.step("one")
        await exporting.step("two")
    written = read_heads(exporting.role.file(world.ledger_id).read_bytes())
    assert len(written) == 2
    assert "in their files only" in caplog.text
    exporting.role._objects = objects = ObjectStore.at(tmp_path / "objects")
    exporting.now += 60
    await exporting.role.step()
    assert await stored_heads.read(objects, world.ledger_id) == [written[-1]]


async def test_of_very_many_heads_some_are_read_and_the_last_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr(stored_heads, "MOST_HEADS", 10)
    objects, signer = ObjectStore.at(tmp_path / "objects"), Signer(b"s" * 32)
    for position in range(1, 26):
        moment = await world.pool.fetchval("select now()")
        await stored_heads.put(objects, signer.sign(world.ledger_id, position, b"c" * 32, moment))
    read = [head.position for head in await stored_heads.read(objects, world.ledger_id)]
    assert len(read) <= 10
    assert read == sorted(read)
    assert read[-1] == 25
