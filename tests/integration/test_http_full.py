"""A database without room: what is asked to be recorded is refused in words, and recorded once there is room."""

import asyncio

import asyncpg
import httpx

from tests.api import Api, accepted, refused

FULL = """
create function ledger.full_disk() returns trigger language plpgsql as
$$ begin raise 'could not extend file: No space left on device' using errcode = '53100'; end $$;
create trigger full_disk before insert on ledger.event for each row execute function ledger.full_disk();
"""
ROOM = "drop trigger full_disk on ledger.event; drop function ledger.full_disk()"


def test_a_full_disk_of_postgres_is_told_to_who_writes_and_to_who_looks(api: Api) -> None:
    project = api.project()
    run = project.started()
    asyncio.run(_as_owner(api, FULL))
    try:
        for answer in (
            project.log(run, 1, {"loss": {"step": [1], "value": [0.5]}}),
            api.client.post(f"/projects/{project.id}/runs", json={"name": "r"}),
        ):
            assert refused(answer, 503)["type"].endswith(":database-full")
            assert "disk is full" in answer.json()["detail"]
        said = accepted(httpx.get(f"{api.url}/readyz"))
        assert said["ready"], "what is there can be read"
        assert "disk is full" in said["checks"]["postgres"]
        accepted(api.client.get(f"/runs/{run['id']}"))
    finally:
        asyncio.run(_as_owner(api, ROOM))
    accepted(project.log(run, 1, {"loss": {"step": [1], "value": [0.5]}}), 202)


async def _as_owner(api: Api, statements: str) -> None:
    owner = await asyncpg.connect(api.database.owner_url)
    await owner.execute(statements)
    await owner.close()
