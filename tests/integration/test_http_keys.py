"""API keys: made, listed, changed and revoked, and that a key's end is heard at once, everywhere."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from events.database import open_pool
from events.ids import uuid7
from service.access import Forbidden
from service.http import downloads
from service.keys import Keys
from stack.process import ROOT
from tests.api import SECONDS, Api, Json, Project, accepted, refused, replica, until
from tests.integration.credentials import issued
from tests.integration.test_sse import Stream


def test_a_key_is_shown_once_and_kept_as_its_hash(api: Api):
    made = issued(api, "member", name="night runs")
    secret, key = made["api_key"], made["key"]
    assert re.fullmatch(r"tg_[A-Za-z0-9_-]{43}", secret)
    assert secret.startswith(key["prefix"])
    assert (key["name"], key["role"], key["projects"], key["revoked_at"]) == ("night runs", "member", None, None)
    shown = accepted(api.client.get(f"/keys/{key['id']}"))
    assert secret not in json.dumps(shown) + json.dumps(accepted(api.client.get("/keys", params={"limit": 1_000})))
    (what,) = shown["history"]
    me = accepted(api.client.get("/me"))
    assert (what["type"], what["actor"], what["actor_name"]) == ("key.issued", me["actor"], "first key")

    async def stored() -> bytes:
        connection = await asyncpg.connect(api.database.url)
        try:
            return await connection.fetchval("select sha256 from projection.api_key where key_id = $1", key["id"])
        finally:
            await connection.close()

    assert asyncio.run(stored()) == hashlib.sha256(secret.encode()).digest()
    with api.as_caller(secret) as client:
        assert accepted(client.get("/me"))["key"]["id"] == key["id"]


def test_a_lost_answer_is_given_again_to_the_same_request_alone(api: Api):
    asked = {"json": {"name": "ci", "role": "viewer"}, "headers": {"Idempotency-Key": str(uuid7())}}
    first = accepted(api.client.post("/keys", **asked), 201)
    assert accepted(api.client.post("/keys", **asked), 201) == first
    refused(api.client.post("/keys", json={"name": "ci", "role": "admin"}, headers=asked["headers"]), 409)


def test_keys_are_listed_newest_first_by_pages(api: Api):
    made = [issued(api, "viewer")["key"]["id"] for _ in range(3)]
    first = accepted(api.client.get("/keys", params={"limit": 2}))
    second = accepted(api.client.get("/keys", params={"limit": 2, "cursor": first["next_cursor"]}))
    assert [one["id"] for one in first["items"] + second["items"]][:3] == made[::-1]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "role": "viewer", "projects": []}, "projects"),
        ({"name": "x", "role": "admin", "projects": ["p"]}, "projects"),
        ({"name": "x", "role": "worker", "projects": ["p"]}, "projects"),
        ({"name": "x", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "role": "viewer", "expires_at": "2099-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "role": "viewer", "secret": "mine"}, "secret"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_its_field(api: Api, body: Json, where: str):
    problem = refused(api.client.post("/keys", json=body), 422)
    assert where in problem["detail"]


def test_a_revoked_key_opens_nothing_at_once_in_any_replica(api: Api, project: Project):
    with replica(api) as other:
        for first, second in ((api, other), (other, api)):
            made = issued(api, "viewer")
            with first.as_caller(made["api_key"]) as here, second.as_caller(made["api_key"]) as there:
                accepted(here.get("/me"))
                accepted(there.get("/me"))
                revoked = accepted(first.client.delete(f"/keys/{made['key']['id']}"))
                assert revoked["revoked_at"] is not None
                refused(here.get("/me"), 401)
                until(lambda there=there: there.get("/me").status_code == 401, "the other replica hears of it", 2)
            assert accepted(first.client.delete(f"/keys/{made['key']['id']}")) == revoked
            changed = first.client.patch(f"/keys/{made['key']['id']}", json={"name": "again"})
            assert refused(changed, 409)["state"] == "revoked"


async def test_a_stream_ends_with_its_key_and_says_where_it_was(api: Api, project: Project):
    run = project.started()
    made = issued(api, "viewer", projects=[project.id])
    headers = {"Authorization": f"Bearer {made['api_key']}"}
    async with (
        httpx.AsyncClient(base_url=f"{api.url}/api/v1", headers=headers) as client,
        client.stream("GET", f"/projects/{project.id}/stream", params={"after": 0}) as answer,
    ):
        stream = Stream(answer)
        seen = await stream.take(3)
        accepted(api.client.delete(f"/keys/{made['key']['id']}"))
        assert project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}).status_code == 202
        (cut,) = await stream.take(1)
        assert cut["event"] == "cut"
        assert json.loads(cut["data"]) == {
            "reason": "the key was revoked, or has expired",
            "last_event_id": int(seen[-1]["id"]),
        }
        assert await stream.next() is None


def test_a_key_expires_by_itself(api: Api):
    soon = datetime.now(UTC) + timedelta(seconds=1)
    made = issued(api, "viewer", expires_at=soon.isoformat())
    with api.as_caller(made["api_key"]) as client:
        assert accepted(client.get("/me"))["key"]["expires_at"] is not None
        until(lambda: client.get("/me").status_code == 401, "the key has expired")
        assert datetime.now(UTC) >= soon
        accepted(api.client.patch(f"/keys/{made['key']['id']}", json={"expires_at": None}))
        accepted(client.get("/me"))
    refused(api.client.patch(f"/keys/{made['key']['id']}", json={"expires_at": "2020-01-01T00:00:00Z"}), 422)


async def test_when_a_key_was_last_used_is_kept_without_a_write_a_request(api: Api):
    made = issued(api, "viewer")
    assert made["key"]["last_used_at"] is None
    pool = await open_pool(api.database.url, name="test", size=1)
    try:
        keys = Keys(pool, b"")
        before = datetime.now(UTC)
        for _ in range(3):
            assert await keys.principal(made["api_key"]) is not None
        assert await pool.fetchval("select count(*) from operation.key_use where key_id = $1", made["key"]["id"]) == 0
        await keys.note_uses(pool)
    finally:
        await pool.close()
    shown = accepted(api.client.get(f"/keys/{made['key']['id']}"))["key"]["last_used_at"]
    assert before <= datetime.fromisoformat(shown) <= datetime.now(UTC)


def test_the_last_admin_key_stays(api: Api):
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    with api.other_tenant() as client:
        first = accepted(client.get("/me"))["key"]["id"]
        temporary = {"name": "temporary", "role": "admin", "expires_at": later}  # does not count: it ends by itself
        accepted(client.post("/keys", json=temporary), 201)
        for answer in (
            client.delete(f"/keys/{first}"),
            client.patch(f"/keys/{first}", json={"expires_at": later}),
        ):
            problem = refused(answer, 409)
            assert problem["type"].endswith("last-admin")
            assert "make another one first" in problem["detail"]
        accepted(client.patch(f"/keys/{first}", json={"name": "renamed"}))
        second = accepted(client.post("/keys", json={"name": "second", "role": "admin"}), 201)
        accepted(client.delete(f"/keys/{first}"))
        refused(client.get("/me"), 401)
    with api.as_caller(second["api_key"]) as other:
        refused(other.delete(f"/keys/{second['key']['id']}"), 409)


def test_two_admins_who_revoke_each_other_leave_one(api: Api):
    """Whichever comes second is refused: of what both see before, neither would be the last."""
    with api.other_tenant() as first:
        made = accepted(first.post("/keys", json={"name": "second", "role": "admin"}), 201)
        mine = accepted(first.get("/me"))["key"]["id"]

        async def at_once() -> list[int]:
            bearers = (first.headers["authorization"], f"Bearer {made['api_key']}")
            async with httpx.AsyncClient(base_url=f"{api.url}/api/v1") as client:
                answers = await asyncio.gather(
                    *(
                        client.delete(f"/keys/{key}", headers={"authorization": bearer})
                        for key, bearer in zip((made["key"]["id"], mine), bearers, strict=True)
                    )
                )
            return sorted(answer.status_code for answer in answers)

        assert asyncio.run(at_once()) in ([200, 401], [200, 409])


def test_what_a_key_was_called_then_is_said_of_what_it_did(api: Api, project: Project):
    made = issued(api, "member", name="before")
    with api.as_caller(made["api_key"]) as client:
        run = accepted(client.post(f"/projects/{project.id}/runs", json={}), 201)
        accepted(api.client.patch(f"/keys/{made['key']['id']}", json={"name": "after"}))
        accepted(client.post(f"/runs/{run['id']}/kill", json={}))
    page = accepted(api.client.get(f"/runs/{run['id']}/events"))
    assert {one["actor"] for one in page["events"]} == {f"key:{made['key']['id']}"}
    assert page["actor_names"] == ["before", "after"]
    moves = accepted(api.client.get(f"/runs/{run['id']}/transitions"))["transitions"]
    assert [one["actor_name"] for one in moves] == ["before", "after"]
    history = accepted(api.client.get(f"/keys/{made['key']['id']}"))["history"]
    assert [(one["type"], one["name"]) for one in history] == [("key.issued", "before"), ("key.changed", "after")]


def command(api: Api, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m service keys`."""
    return subprocess.run(
        [sys.executable, "-m", "service", "keys", *arguments],
        cwd=ROOT,
        env=api.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_who_lost_the_last_key_makes_another_by_way_of_the_database(api: Api, project: Project):
    made = command(api, "create", "again", "--role", "admin")
    assert made.returncode == 0, made.stderr
    with api.as_caller(made.stdout.strip()) as client:
        key = accepted(client.get("/me"))["key"]
        assert key["id"] in made.stderr
        history = accepted(client.get(f"/keys/{key['id']}"))["history"]
        assert [(one["actor"], one["actor_name"]) for one in history] == [("system:operator", None)]
        listed = [json.loads(line) for line in command(api, "--json", "list").stdout.splitlines()]
        assert {one["id"] for one in listed} == {
            one["id"] for one in accepted(client.get("/keys", params={"limit": 1_000}))["items"]
        }
        assert f"{key['prefix']}…  admin  'again'" in command(api, "list").stdout
        revoked = command(api, "revoke", key["id"])
        assert "revoked 2" in revoked.stdout
        until(lambda: client.get("/me").status_code == 401, "the service hears of it", 2)
    confined = command(api, "--json", "create", "ci", "--role", "member", "--project", project.name)
    assert json.loads(confined.stdout)["key"]["projects"] == [project.id]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "x", "--role", "admin", "--project", "p"], "is for all of the organisation"),
        (["create", "x", "--role", "viewer", "--project", "nowhere"], "there is no project 'nowhere'"),
        (["create", "x", "--role", "viewer", "--expires", "2020-01-01T00:00:00Z"], "expires in the future"),
        (["create", "x", "--role", "viewer", "--expires", "soon"], "expires_at"),
        (["create", "", "--role", "viewer"], "name"),
        (["revoke", str(uuid7())], "there is no key"),
        (["--organisation", "none", "list"], "there is no organisation 'none'"),
    ],
)
def test_a_command_that_cannot_be_says_why(api: Api, arguments: list[str], said: str):
    done = command(api, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_an_admin_renames_the_organisation(api: Api):
    with api.other_tenant() as client:
        known = accepted(client.get("/organisation"))
        changed = accepted(client.patch("/organisation", json={"name": "Tall Trees"}))
        assert changed == known | {"name": "Tall Trees", "version": known["version"] + 1}
        assert accepted(client.get("/me"))["organisation"] == "Tall Trees"
        assert "name" in refused(client.patch("/organisation", json={"name": ""}), 422)["detail"]
        assert accepted(client.post("/organisation/audit/verify"))["first_bad"] is None


async def test_a_download_breaks_off_when_its_key_is_revoked(api: Api):
    made = issued(api, "viewer")
    pool = await open_pool(api.database.url, name="test", size=1)

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"1"
        yield b"2"

    try:
        service: Any = SimpleNamespace(keys=Keys(pool, b""), stopping=asyncio.Event())
        principal = await service.keys.principal(made["api_key"])
        paced = downloads._paced(service, principal, chunks(), "a file")
        assert await anext(paced) == b"1"
        accepted(api.client.delete(f"/keys/{made['key']['id']}"))
        service.keys.forget()  # as the notification has it
        with pytest.raises(Forbidden, match="revoked"):
            await anext(paced)
    finally:
        await pool.close()


def test_a_program_trains_with_a_key_that_is_confined_to_its_project(api: Api, project: Project, tmp_path: Path):
    made = issued(api, "member", projects=[project.id])
    program = "import sys, tachograph\nwith tachograph.init(project=sys.argv[1]) as run:\n    run.log({'a': 1.0})\n"
    environment = {
        **os.environ,
        "TACHOGRAPH_URL": api.url,
        "TACHOGRAPH_API_KEY": made["api_key"],
        "TACHOGRAPH_HOME": str(tmp_path),
    }
    command = [sys.executable, "-c", program, project.name]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=SECONDS)
    (run,) = accepted(api.client.get(f"/projects/{project.id}/runs"))["items"]
    assert run["status"] == "completed"
    events = project.events(run)
    assert [one["type"] for one in events].count("run.metrics_logged") == 1
    assert {one["actor"] for one in events} == {f"key:{made['key']['id']}"}
