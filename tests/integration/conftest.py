"""What tests on real servers share, unless a module has its own: a service, a project, an organisation, NATS."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from nats.aio.client import Client

from events import bus
from projections.charts import sources
from projections.storage.objects import ObjectStore
from tests import servers
from tests.api import Api, Project, serving
from tests.integration.alerting import Alerting, Receiver
from tests.integration.audited import Audited
from tests.integration.desk import Desk, opened_desk
from tests.integration.fleet import Fleet, opened_fleet
from tests.integration.telemetry import World, opened_world
from tests.integration.watch import Watch
from tests.object_stores import Place, S3Server
from tests.servers import Database, NatsServer, PostgresServer


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
def api(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
) -> Iterator[Api]:
    """A service, and those roles that the module names in `ROLES`."""
    roles = getattr(request.module, "ROLES", ())
    asyncio.run(servers.wipe_jetstream(nats_server))  # each has an organisation of the same id
    with serving(postgres_server, nats_server, servers_home, roles=roles) as api:
        yield api


@pytest.fixture
def project(api: Api) -> Project:
    return api.project()


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with opened_fleet(database.url) as fleet:
        yield fleet


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    connected = await bus.connect(nats.url("roles"), name="test")
    yield connected
    await connected.close()


@pytest.fixture
async def desk(fleet: Fleet, client: Client) -> Desk:
    return await opened_desk(fleet, client)


@pytest.fixture
async def watch(fleet: Fleet, client: Client) -> AsyncIterator[Watch]:
    await bus.ensure_streams(client.jetstream())
    watch = Watch(fleet, client)
    await watch.monitor.start()
    yield watch
    await watch.monitor.stop()


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_world(database.url, tmp_path / "parquet") as opened:
        yield opened


@pytest.fixture
async def elsewhere(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[World]:
    """Another home: a database, a directory for Parquet and an object store of its own."""
    database = await servers.create_database(postgres_server)
    async with opened_world(database.url, tmp_path / "elsewhere" / "parquet") as opened:
        yield opened
    await servers.drop_database(postgres_server, database)


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty object store: a directory, and a bucket."""
    if request.param == "directory":
        return Place(str(tmp_path / "objects"), {})
    s3: S3Server = request.getfixturevalue("s3")
    return s3.bucket()


@pytest.fixture
def objects(place: Place, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """That object store, its variables in our environment."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return ObjectStore.at(place.url)


@pytest.fixture(params=[0, 1 << 21], ids=["extents first", "all at once"])
def at_once_points(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "AT_ONCE_POINTS", request.param)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
async def alerting(world: World) -> AsyncIterator[Alerting]:
    organisation = await world.pool.fetchval(
        "select organisation_id from ledger.ledger where ledger_id = $1", world.ledger_id
    )
    await world.ledger.open(organisation, organisation, "organisation")
    return Alerting(world, organisation)


@pytest.fixture
async def audited(world: World, database: Database, nats: NatsServer) -> AsyncIterator[Audited]:
    client = await bus.connect(nats.url(), name="test")
    audited = Audited(world, database, client)
    await audited.fill()
    yield audited
    await client.close()
