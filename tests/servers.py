"""The real servers that tests run against: from the wheels by default, from container images on request."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import asyncpg
from nats.js import JetStreamContext

from events import bus
from events.ids import uuid7
from service.commands.migrate import migrate
from stack import Nats, Postgres
from stack.nats import PERMISSIONS
from stack.postgres import CONFIGURATION, ROLES

POSTGRES_IMAGE = "postgres:18"
NATS_IMAGE = "nats:2.15"
TEMPLATE = "tachograph_template"


class PostgresServer(Protocol):
    """What tests need of a PostgreSQL server, wherever it runs."""

    def url(self, role: str = "tachograph", database: str = "tachograph") -> str: ...


class NatsServer(Protocol):
    """What tests need of a NATS server, wherever it runs."""

    def url(self, user: str = "roles") -> str: ...


class Database(NamedTuple):
    """A migrated database of a test's own: as the application, as its owner, as the superuser."""

    name: str
    url: str
    owner_url: str
    superuser_url: str


@contextmanager
def postgres_from_wheel(home: Path) -> Iterator[PostgresServer]:
    server = Postgres(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def nats_from_wheel(home: Path) -> Iterator[NatsServer]:
    server = Nats(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class PostgresInContainer:
    def __init__(self, host: str, port: int) -> None:
        self._address = f"{host}:{port}"

    def url(self, role: str = "tachograph", database: str = "tachograph") -> str:
        return f"postgresql://{role}@{self._address}/{database}"


class NatsInContainer:
    def __init__(self, host: str, port: int) -> None:
        self._address = f"{host}:{port}"

    def url(self, user: str = "roles") -> str:
        return f"nats://{user}:{user}@{self._address}"


@contextmanager
def postgres_from_image(_: Path) -> Iterator[PostgresServer]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    # The image starts once to initialise itself and then for good: the second time counts.
    ready = LogMessageWaitStrategy("database system is ready to accept connections", times=2)
    container = (
        DockerContainer(POSTGRES_IMAGE)
        .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_exposed_ports(5432)
        .with_volume_mapping(str(ROLES), "/docker-entrypoint-initdb.d/roles.sql", "ro")
        .with_volume_mapping(str(CONFIGURATION), "/etc/tachograph.conf", "ro")
        .with_command("-c config_file=/etc/tachograph.conf -c listen_addresses=* -c unix_socket_permissions=0777")
        .waiting_for(ready)
    )
    with container:
        yield PostgresInContainer(container.get_container_host_ip(), int(container.get_exposed_port(5432)))


@contextmanager
def nats_from_image(directory: Path) -> Iterator[NatsServer]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    users = [{"user": user, "password": user, "permissions": allowed} for user, allowed in PERMISSIONS.items()]
    configuration = directory / "nats.conf"
    configuration.write_text(
        json.dumps(
            {
                "listen": "0.0.0.0:4222",
                "jetstream": {"store_dir": "/data", "sync_interval": "always", "max_file_store": 64 << 30},
                "authorization": {"users": users},
            }
        )
    )
    container = (
        DockerContainer(NATS_IMAGE)
        .with_exposed_ports(4222)
        .with_volume_mapping(str(configuration), "/etc/tachograph.conf", "ro")
        .with_command("--config /etc/tachograph.conf")
        .waiting_for(LogMessageWaitStrategy("Server is ready"))
    )
    with container:
        yield NatsInContainer(container.get_container_host_ip(), int(container.get_exposed_port(4222)))


def make_template(server: PostgresServer) -> None:
    """Migrate one database, from which each test's own is copied; from here on, the server does not wait for its disk.

    A commit outlives a killed server all the same, only a power cut could take it back. What costs is the dropping of
    a database, before which every file of it would be synced.
    """

    async def make() -> None:
        async with superuser(server) as connection:
            await connection.execute("alter system set fsync = off")
            await connection.execute("select pg_reload_conf()")
            await connection.execute(f"create database {TEMPLATE} owner tachograph_owner")
        await migrate(server.url("tachograph_owner", TEMPLATE))

    asyncio.run(make())


class superuser:  # noqa: N801 (reads as a function: `async with superuser(server) as connection`)
    """A superuser's connection to a server."""

    def __init__(self, server: PostgresServer) -> None:
        self._url = server.url("postgres", "postgres")

    async def __aenter__(self) -> asyncpg.Connection:
        self._connection = await asyncpg.connect(self._url)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def create_database(server: PostgresServer, template: str = TEMPLATE) -> Database:
    name = f"test_{uuid7().hex}"
    async with superuser(server) as connection:
        await connection.execute(f"create database {name} template {template} owner tachograph_owner")
    return Database(
        name, server.url("tachograph", name), server.url("tachograph_owner", name), server.url("postgres", name)
    )


async def drop_database(server: PostgresServer, database: Database) -> None:
    async with superuser(server) as connection:
        await connection.execute(f"drop database {database.name} with (force)")


async def wipe_jetstream(server: NatsServer) -> None:
    """Remove every stream, and with it every message and consumer."""
    client = await bus.connect(server.url("roles"), name="wipe")
    try:
        jetstream: JetStreamContext = client.jetstream()
        for stream in await jetstream.streams_info():
            assert stream.config.name is not None
            await jetstream.delete_stream(stream.config.name)
    finally:
        await client.close()
