"""Real servers for the tests: started once for all that need them, with a database and a JetStream for each test."""

import gc
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite(
    "tests.api",
    "tests.fault.checks",
    "tests.fault.load",
    "tests.integration.audited",
    "tests.integration.desk",
    "tests.integration.telemetry",
)

from stack import Nats, Postgres, Stack, ports
from stack.ports import free_port
from tests import servers
from tests.object_stores import S3Server, s3_server
from tests.servers import Database, NatsServer, PostgresServer


def pytest_configure() -> None:
    """Let each of several test processes take other ports: one is found free for a while before a server takes it."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    shuffled = random.SystemRandom().sample(ports.PORTS, len(ports.PORTS))
    ports._candidates = cycle([port for port in shuffled if port % workers == number])


def pytest_unconfigure() -> None:
    """Let the interpreter end quietly: Hypothesis' hook in the collector keeps DuckDB's types alive past their end."""
    gc.callbacks.clear()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=["wheels", "containers"],
        default="wheels",
        help="where PostgreSQL and NATS come from: the wheels, or images under a Docker engine",
    )


@pytest.fixture(scope="session")
def servers_home() -> Iterator[Path]:
    # pytest keeps its own temporary directories; a cluster in each would fill the disk.
    home = Path(tempfile.mkdtemp(prefix="tachograph-test-"))
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_server(servers_home: Path, pytestconfig: pytest.Config) -> Iterator[PostgresServer]:
    """The PostgreSQL that tests share. A test that breaks it takes `own_postgres`."""
    wheels = pytestconfig.getoption("servers") == "wheels"
    with (servers.postgres_from_wheel if wheels else servers.postgres_from_image)(servers_home) as server:
        servers.make_template(server)
        yield server


@pytest.fixture(scope="session")
def nats_server(servers_home: Path, pytestconfig: pytest.Config) -> Iterator[NatsServer]:
    """The NATS that tests share. A test that breaks it takes `own_nats`."""
    wheels = pytestconfig.getoption("servers") == "wheels"
    with (servers.nats_from_wheel if wheels else servers.nats_from_image)(servers_home) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 that tests share, each in a bucket of its own."""
    with s3_server() as server:
        yield server


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A migrated database that this test alone uses."""
    made = await servers.create_database(postgres_server)
    yield made
    await servers.drop_database(postgres_server, made)


@pytest.fixture
async def nats(nats_server: NatsServer) -> NatsServer:
    """The shared NATS without any stream."""
    await servers.wipe_jetstream(nats_server)
    return nats_server


@pytest.fixture
def own_home() -> Iterator[Path]:
    """A directory for servers of a test's own, on a path short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="tachograph-test-"))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def own_postgres(own_home: Path) -> Iterator[Postgres]:
    """A started, not yet migrated PostgreSQL that this test may kill."""
    server = Postgres(own_home)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_nats(own_home: Path) -> Iterator[Nats]:
    """A started NATS that this test may kill."""
    server = Nats(own_home)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_stack(own_home: Path) -> Iterator[Callable[..., Stack]]:
    """Start whole systems, each `Stack(home, port, **options)` with what is not given chosen; stopped at the end."""
    started: list[Stack] = []

    def start(home: Path | None = None, port: int | None = None, **options: Any) -> Stack:
        stack = Stack(home or own_home / f"stack-{len(started)}", port or free_port(), **options)
        started.append(stack)
        stack.start()
        return stack

    yield start
    for stack in reversed(started):
        stack.stop()
