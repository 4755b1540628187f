"""A service for each kind of object store, and a run whose artifacts it keeps there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, serving
from tests.integration.artifacts.saving import LIMITS
from tests.object_stores import Place, S3Server
from tests.servers import NatsServer, PostgresServer


@pytest.fixture(scope="package", params=["directory", "s3"])
def where(request: pytest.FixtureRequest, servers_home: Path) -> Place:
    if request.param == "directory":
        return Place(str(servers_home / f"objects-{uuid7()}"), {})
    s3: S3Server = request.getfixturevalue("s3")
    return s3.bucket()


@pytest.fixture(scope="package")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, where: Place) -> Iterator[Api]:
    environment = {**LIMITS, **where.environment, "TACHOGRAPH_OBJECT_STORE": where.url}
    with serving(postgres_server, nats_server, servers_home, environment=environment) as api:
        yield api


@pytest.fixture
def run(project: Project) -> Json:
    return project.started()
