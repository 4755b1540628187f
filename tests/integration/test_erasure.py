"""After a purge no byte of what a run held is in any store, whenever the purge died; the record still verifies."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from nats.aio.client import Client

from events import bus
from events.types import StoreReceipt
from projections.verification import Places, audit
from stack import Nats, Postgres
from tests import servers
from tests.api import SECONDS, Api, Json, Project, accepted, serving, until
from tests.integration.telemetry import AT_ONCE, MASTER_KEY, World, drained
from tests.servers import Database, NatsServer
from workers import purge
from workers.archiver import Archiver
from workers.projector import Projector
from workers.relay import Relay

MARK = "mark-5f0c2a"
VALUE = "50310625.25"
KEPT = "kept-91be37"


# --- real processes ---------------------------------------------------------------------------------------


@pytest.fixture
def api(own_postgres: Postgres, own_nats: Nats, own_home: Path) -> Iterator[Api]:
    servers.make_template(own_postgres)
    with serving(
        own_postgres, own_nats, own_home, roles=("roles",), environment={"TACHOGRAPH_HEADS_SECONDS": "0.5"}
    ) as api:
        yield api


def full(project: Project, mark: str) -> Json:
    """Return a completed run that holds a mark wherever a user can put one."""
    run = project.started(
        name=f"{mark}-name", external_id=f"{mark}-external", path=f"{mark}-path", alias=f"{mark}-alias",
        tags=[f"{mark}-tag"], notes=f"{mark}-notes", config={f"{mark}-key": f"{mark}-value"},
    )  # fmt: skip
    path = f"/runs/{run['id']}"
    for number in range(20):
        summary = {f"{mark}-sum": f"{mark}-{number}"}
        edit = {"notes": f"{mark}-again {number}", "summary": summary, "tags": [f"{mark}-t"]}
        accepted(project.api.patch(path, json=edit))
    accepted(project.log(run, 1, {f"{mark}-metric": {"step": [1, 2], "value": [1.0, 2.0]}}, stage=f"{mark}-stage"), 202)
    accepted(project.write(run, 2, f"{mark} is a line"), 202)
    described = {"kind": "table", "caption": f"{mark}-caption"}
    content = f"{mark} is in a file\n".encode() * 1_000
    accepted(project.api.put(f"{path}/artifacts/{mark}-folder/{mark}.csv", content=content, params=described), 201)
    unfinished = {"name": f"{mark}-unfinished", "bytes": 9 << 20, "caption": f"{mark}-later"}
    upload = accepted(project.api.post(f"{path}/uploads", json=unfinished), 201)
    part = f"{mark}-part ".encode().ljust(4 << 20, b".")
    headers = {"Upload-Offset": "0"}
    accepted(project.api.patch(f"{path}/uploads/{upload['id']}", content=part, headers=headers))
    accepted(project.api.post(f"{path}/primary-metric", json={"name": f"{mark}-metric", "mode": "min"}))
    error = {"type": f"{mark}E", "message": f"{mark}-message", "traceback": f"{mark}-trace"}
    accepted(project.api.post(f"{path}/finish", json={"epoch": 1, "status": "failed", "error": error}))
    refused = project.api.post(f"/projects/{project.id}/runs", json={"mode": "tracked", "name": f"{mark}-name"})
    assert refused.status_code == 409
    return run


def holding(home: Path, mark: str) -> set[str]:
    """Return which files below a directory hold a mark, the write-ahead log aside."""
    found = set()
    for path in home.rglob("*"):
        if path.is_file() and "pg_wal" not in path.parts:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if mark.encode() in data:
                found.add(str(path.relative_to(home)))
    return found


async def relayed(api: Api, project: Project) -> bool:
    """Say whether all of a project's history is on JetStream."""
    connection = await asyncpg.connect(api.database.superuser_url)
    position = "select position from ledger.cursor where reader = 'relay' and ledger_id = $1"
    found = await connection.fetchval(position, UUID(project.id))
    await connection.close()
    return bool(found == project.head()["position"])


async def settled(api: Api) -> None:
    """Let the planner count, and write everything to disk."""
    connection = await asyncpg.connect(api.database.superuser_url)
    await connection.execute("analyze")
    await connection.execute("checkpoint")
    await connection.close()


def test_no_byte_of_a_purged_run_is_left(api: Api, own_home: Path) -> None:
    project = api.project()
    beyond = {"when": "threshold", "metric": "spike", "side": "above", "value": 1.0}
    accepted(api.client.post(f"/projects/{project.id}/alerts", json={"name": "spike", "condition": beyond}), 201)
    kept = full(project, KEPT)
    run = full(project, MARK)
    path = f"/runs/{run['id']}"
    spiked = project.started()
    accepted(project.log(spiked, 1, {"spike": {"step": [1], "value": [float(VALUE)]}}), 202)

    def summarised() -> bool:
        return bool(accepted(api.client.get(f"{path}/metrics"))["metrics"])

    def archived() -> bool:
        return {"run.telemetry_archived"} <= {event["type"] for event in project.events(run)}

    until(summarised, "the metrics are summarised")
    until(archived, "the telemetry is in Parquet")
    until(lambda: asyncio.run(relayed(api, project)), "all is published")
    asyncio.run(settled(api))
    before = holding(own_home, MARK)
    assert any(name.startswith("postgres/base/") for name in before)
    assert any(name.startswith("nats/") for name in before)
    fired = f"/projects/{project.id}/alerts/fired"
    (alert,) = until(lambda: accepted(api.client.get(fired))["items"], "the alert is fired")
    assert (alert["run"], alert["step"], alert["value"]) == (spiked["id"], 1, VALUE)

    objects = own_home / api.home / "objects"
    assert len(list(objects.rglob(f"run={run['id']}/*/*"))) == 2

    accepted(api.client.delete(path))
    accepted(api.client.post(f"/runs/{spiked['id']}/finish", json={"epoch": 1, "status": "completed"}))
    accepted(api.client.delete(f"/runs/{spiked['id']}"))

    def purged(run: Json) -> list[Json]:
        return [event for event in project.events(run) if event["type"] == "run.purged"]

    (receipt,) = until(lambda: purged(run), "the run is purged")
    until(lambda: purged(spiked), "the run that an alert was fired for is purged")
    stores = receipt["data"]["receipt"]
    assert stores["postgres"]["objects"] > 25
    assert stores["parquet"]["objects"] >= 2
    assert stores["jetstream"]["objects"] >= 25
    assert stores["artifacts"] == {"objects": 2, "bytes": len(f"{MARK} is in a file\n") * 1_000 + (4 << 20) + 2 * 28}
    assert all(store["bytes"] > 500 for store in stores.values())
    asyncio.run(settled(api))
    assert holding(own_home, MARK) == holding(own_home, VALUE) == set()
    assert accepted(api.client.get(fired))["items"] == []
    assert holding(own_home, KEPT) != set()
    assert not list(objects.rglob(f"run={run['id']}*"))
    assert len(list(objects.rglob(f"run={kept['id']}/*/*"))) == 2
    assert accepted(api.client.get(f"/runs/{kept['id']}"))["notes"] == f"{KEPT}-again 19"
    report = project.verified()
    assert (report["verified"], report["first_bad"]) == (True, None)
    assert report["erased"] >= 25


# --- deaths on the way ------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from events import bus
from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from projections.archive.stores import Directory
from projections.storage.objects import ObjectStore
from workers.archive_policy import Policy
from workers.archiver import Archiver

async def main(url, root, master, nats):
    pool = await open_pool(url, name="child")
    client = await bus.connect(nats, name="child")
    archiver = Archiver(
        Ledger(pool, Keyring(bytes.fromhex(master))), Directory(Path(root)),
        ObjectStore.at(Path(root).with_name("objects")),
        jetstream=client.jetstream(),
        policy=Policy(age_seconds=1e-9, tail_seconds=1e-9),
    )
    await archiver.start()
    while await archiver.step():
        pass

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    client = await bus.connect(nats.url(), name="test")
    yield client
    await client.close()


async def published(world: World, client: Client) -> None:
    relay = Relay(world.ledger, client.jetstream())
    await relay.start()
    while await relay.step():
        pass
    projector = Projector(world.ledger)
    while await projector.step():
        pass


async def deleted_run(world: World, client: Client) -> Any:
    run_id = await world.started_run()
    await world.metrics(run_id, {MARK: ([1, 2], [1.0, 2.0])})
    await published(world, client)
    await world.archive()
    await world.metrics(run_id, {MARK: ([3], [3.0])})
    await world.save(run_id, MARK, b"12345")
    await world.end(run_id)
    await world.delete(run_id)
    await published(world, client)
    return run_id


async def messages(client: Client, run_id: Any) -> set[str]:
    """Return the types of a run's messages that JetStream holds."""
    found = set()
    for stream in ("EVENTS", "TELEMETRY"):
        info = await client.jetstream().stream_info(stream, subjects_filter=f"tachograph.*.*.{run_id}.>")
        found |= {subject.split(".", 4)[4] for subject in info.state.subjects or {}}
    return found


STEPS = (
    "erase",
    "files",
    "artifacts",
    "messages",
    "rewrite_run",
    "rewrite_run_facet",
    "rewrite_artifact",
    "rewrite_metric_summary",
    "rewrite_data_key",
    "receipt",
)


@pytest.mark.parametrize("step", STEPS)
async def test_a_purge_that_died_is_finished_once(
    world: World, database: Database, client: Client, nats: NatsServer, step: str
) -> None:
    run_id = await deleted_run(world, client)
    assert "run.metrics_logged" in await messages(client, run_id)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, database.url, str(world.root), MASTER_KEY.hex(), nats.url(),
        env={**os.environ, "TACHOGRAPH_CRASH_AT": f"purge.after_{step}"},
    )  # fmt: skip
    assert await asyncio.wait_for(child.wait(), SECONDS) == -signal.SIGKILL
    await drained(Archiver(world.ledger, world.store, world.objects, jetstream=client.jetstream(), policy=AT_ONCE))
    stored = await world.stored(run_id)
    assert stored.run.receipt is not None
    assert stored.run.receipt["jetstream"].objects >= 5
    assert stored.run.receipt["parquet"].objects == 1
    assert stored.run.receipt["artifacts"] == StoreReceipt(objects=1, bytes=5 + 28)
    assert stored.run.receipt["postgres"].objects >= 6
    events = await world.ledger.read_stream(world.ledger_id, run_id)
    assert [event.type for event in events].count("run.purged") == 1
    assert await messages(client, run_id) == {"run.deleted"}
    assert await world.pool.fetchval("select count(*) from purge") == 0
    await published(world, client)
    places = Places(database_url=database.url, archive=world.store, jetstream=client.jetstream(), sample=None)
    assert (await audit(world.ledger, world.ledger_id, places)).first_bad is None


async def test_one_rewrite_serves_more_deleted_runs_than_a_page_has(
    world: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "PAGE_RUNS", 2)
    run_ids = [await world.started_run() for _ in range(5)]
    for run_id in run_ids:
        await world.metrics(run_id, {MARK: ([1, 2], [1.0, 2.0])})
        await world.end(run_id)
        await world.delete(run_id)
    await published(world, client)
    archiver = Archiver(world.ledger, world.store, world.objects, jetstream=client.jetstream(), policy=AT_ONCE)
    rewritten = []

    async def rewrite() -> bool:
        rewritten.append(True)
        return await once()

    once = archiver._purge.rewrite
    monkeypatch.setattr(archiver._purge, "rewrite", rewrite)
    await drained(archiver)
    assert len(rewritten) == 1
    for run_id in run_ids:
        receipt = (await world.stored(run_id)).run.receipt
        assert receipt is not None
        assert receipt["jetstream"].objects == 4
        assert await messages(client, run_id) == {"run.deleted"}


async def test_a_rewrite_keeps_what_lives_while_others_write(world: World, database: Database) -> None:
    kept = [await world.started_run() for _ in range(20)]
    stop = asyncio.Event()

    async def write() -> int:
        count = 0
        while not stop.is_set():
            for run_id in kept[:4]:
                await world.metrics(run_id, {"loss": ([count], [1.0])})
                count += 1
            await world.started_run()
        return count

    writing = asyncio.create_task(write())
    for _ in range(5):
        for table in ("run", "run_facet", "metric_summary", "data_key"):
            await world.pool.execute("select projection.rewrite($1)", table)
    stop.set()
    await writing
    places = Places(database_url=database.url, archive=world.store)
    report = await audit(world.ledger, world.ledger_id, places)
    assert report.first_bad is None


async def test_a_rewrite_waits_for_a_table_in_use(world: World, database: Database, client: Client) -> None:
    run_id = await deleted_run(world, client)
    reader = await asyncpg.connect(database.url)
    archiver = Archiver(world.ledger, world.store, world.objects, jetstream=client.jetstream(), policy=AT_ONCE)
    async with reader.transaction():
        await reader.execute("select from projection.run limit 1")
        await drained(archiver)
        assert (await world.stored(run_id)).run.receipt is None
    await reader.close()
    archiver._purge._rewrite_at = 0.0
    await drained(archiver)
    assert (await world.stored(run_id)).run.receipt is not None


async def test_an_answer_that_comes_late_does_not_put_the_next_rewrite_off(world: World, client: Client) -> None:
    await deleted_run(world, client)
    now = itertools.count(0.0, 600.0)  # as after an outage: by our own clock each look is ten minutes after the last
    archiver = Archiver(world.ledger, world.store, world.objects, jetstream=client.jetstream(), policy=AT_ONCE)
    archiver._purge._clock = lambda: next(now)
    assert await archiver._purge.rewrite()
    assert await archiver._purge.rewrite(), "a rewrite of milliseconds is not followed by hours of rest"


async def test_the_planner_keeps_no_text(world: World, owner: asyncpg.Connection) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {MARK: ([1], [1.0])})
    projector = Projector(world.ledger)
    while await projector.step():
        pass
    await world.pool.execute("select projection.rewrite('run')")
    await owner.execute("analyze")
    counted = await owner.fetch("select attname from pg_stats where schemaname = 'projection' and tablename = 'run'")
    names = {row["attname"] for row in counted}
    assert "run_id" in names
    assert not names & {"name", "external_id", "state"}
    assert not await owner.fetchval(
        "select count(*) from pg_stats where tablename = 'metric_summary' and attname = 'name'"
    )


async def test_only_known_tables_are_rewritten(world: World) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await world.pool.execute("select projection.rewrite('event')")
