"""Artifacts are sent, and what became of them is looked up in the store, the database and the ledger."""

import asyncio
import random

import asyncpg
import httpx
import pytest

from projections.storage.objects import ObjectStore
from tests.api import Api, Json, Project
from tests.object_stores import Place

PART = 4 << 20
MIB = 1 << 20
LIMITS = {
    "TACHOGRAPH_MAX_ARTIFACT_BYTES": str(300 * MIB),
    "TACHOGRAPH_MAX_RUN_ARTIFACTS": "12",
    "TACHOGRAPH_MAX_RUN_UPLOADS": "6",
    "TACHOGRAPH_MAX_PROJECT_BYTES": str(400 * MIB),
}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def put(api: Api, run: Json, name: str, data: bytes, **fields: str) -> httpx.Response:
    return api.client.put(f"/runs/{run['id']}/artifacts/{name}", content=data, params=fields)


def stored(where: Place, run: Json) -> list[tuple[str, int]]:
    """Return the objects below a run's prefix, straight from the store."""

    async def look() -> list[tuple[str, int]]:
        objects = ObjectStore.at(where.url)
        prefix = f"artifacts/ledger={run['project_id']}/run={run['id']}/"
        return sorted([(one.path, one.bytes) async for page in objects.pages(prefix) for one in page])

    with pytest.MonkeyPatch.context() as patch:
        for name, value in where.environment.items():
            patch.setenv(name, value)
        return asyncio.run(look())


def uploads(api: Api, run: Json) -> int:
    async def count() -> int:
        connection = await asyncpg.connect(api.database.owner_url)
        found: int = await connection.fetchval("select count(*) from operation.upload where run_id = $1", run["id"])
        await connection.close()
        return found

    return asyncio.run(count())


def saved_events(project: Project, run: Json) -> list[Json]:
    return [event for event in project.events(run) if event["type"] == "run.artifact_saved"]
