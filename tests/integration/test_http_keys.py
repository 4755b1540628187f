"""API keys: what each role and each confinement opens, and that a key's end is heard at once, everywhere."""

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest

from events.database import open_pool
from events.ids import uuid7
from events.types import Role
from service.access import PROGRAM, Forbidden
from service.http import downloads
from service.keys import Keys
from stack.process import ROOT
from tests.api import SECONDS, Api, Json, Project, accepted, refused, replica, until
from tests.described import DOCUMENT
from tests.integration.test_http_auth import claimed
from tests.integration.test_sse import Stream


def issued(api: Api, role: str, **fields: Any) -> Json:
    """Make a key and return the whole answer."""
    body = {"name": f"{role} {uuid7()}", "role": role, **fields}
    return accepted(api.client.post("/keys", json=body), 201)


@contextmanager
def holding(api: Api, role: str, **fields: Any) -> Iterator[httpx.Client]:
    """A client with a new key."""
    with api.as_caller(issued(api, role, **fields)["api_key"]) as client:
        yield client


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


def allowed(role: str) -> set[tuple[str, str]]:
    """Return the operations that the description opens to a role."""
    return {
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if role in operation.get("x-roles", ())
    }


def test_every_route_says_what_it_needs():
    silent = {
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if "x-roles" not in operation and operation.get("security") != []
    }
    assert silent == set()
    assert {
        role for path in DOCUMENT["paths"].values() for one in path.values() for role in one.get("x-roles", ())
    } == {
        *Role,
        PROGRAM,
    }
    assert allowed("viewer") < allowed("member") < allowed("admin")
    assert {method for method, path in allowed("viewer")} <= {"get", "head", "post"}
    assert {path for method, path in allowed("viewer") if method == "post"} == {
        "/api/v1/projects/{project}/query",
        "/api/v1/projects/{project}/audit/verify",
        "/api/v1/organisation/audit/verify",
        "/api/v1/logout",
    }


@pytest.mark.parametrize("role", Role)
def test_a_role_opens_its_routes_and_no_other(api: Api, role: str):
    nothing = str(uuid7())
    with holding(api, role) as client:
        for path, methods in DOCUMENT["paths"].items():
            asked = re.sub(r"\{(\w+)\}", lambda found: "1" if found[1] == "position" else nothing, path)
            for method, operation in methods.items():
                if operation.get("security") == [] or method == "head":
                    continue
                # what is allowed is refused for another reason: nothing of this id is there, and the body is none
                answer = client.request(method, f"{api.url}{asked}", content=b"", headers={"content-type": "x/y"})
                told = answer.json() if answer.status_code == 403 else {}
                assert (answer.status_code == 403) == (role not in operation["x-roles"]), (method, path, answer.text)
                if told:
                    assert (told["role"], told["needs"]) == (role, operation["x-roles"])


def test_a_member_runs_a_viewer_reads_and_neither_gives_keys(api: Api, project: Project):
    run = project.started()
    with holding(api, "member") as member, holding(api, "viewer") as viewer:
        own = accepted(member.post(f"/projects/{project.id}/runs", json={}), 201)
        accepted(member.post(f"/runs/{own['id']}/start", json={"pid": 1}))
        point = {"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [1.0]}}}
        accepted(member.post(f"/runs/{own['id']}/metrics", json=point), 202)
        accepted(viewer.get(f"/runs/{own['id']}"))
        refused(viewer.post(f"/runs/{own['id']}/kill", json={}), 403)
        refused(viewer.post(f"/runs/{run['id']}/metrics", json=point), 403)
        accepted(member.post(f"/runs/{own['id']}/kill", json={}))
        for client in (member, viewer):
            refused(client.post("/keys", json={"name": "more", "role": "admin"}), 403)
            refused(client.put("/organisation/plan", json={"plan": "x", "plan_limits": {}}), 403)
            refused(client.get("/keys"), 403)


def test_a_worker_claims_and_reports_and_reads_no_metrics(api: Api, project: Project):
    source = project.started()
    accepted(api.client.put(f"/runs/{source['id']}/artifacts/code.zip", content=b"data"), 201)
    run = project.create(command=["true"])
    with holding(api, "worker") as worker:
        registered = accepted(worker.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0"}]}), 201)
        body = {"worker": registered["id"], "command_id": str(uuid7()), "slots": ["cpu:0"]}
        accepted(worker.post(f"/runs/{run['id']}/claim", json=body))
        accepted(worker.post(f"/runs/{run['id']}/report", json={"report": "started", "epoch": 1}))
        assert worker.get(f"/runs/{source['id']}/artifacts/code.zip").content == b"data"
        accepted(worker.put(f"/runs/{run['id']}/artifacts/out", content=b"out"), 201)
        for path in (f"/runs/{run['id']}/metrics", f"/runs/{run['id']}/events", "/projects", "/keys", "/usage"):
            refused(worker.get(path), 403)
        refused(worker.post(f"/runs/{run['id']}/kill", json={}), 403)


def test_a_confined_key_sees_its_projects_and_nothing_of_others(api: Api, project: Project):
    other = api.project()
    hidden = other.started(external_id="x", name="hidden")
    point = {"a": {"step": [1], "value": [1.0]}}
    accepted(other.log(hidden, 1, point), 202)
    saved = accepted(api.client.put(f"/runs/{hidden['id']}/artifacts/m", content=b"secret"), 201)
    workflow = accepted(api.client.post(f"/projects/{other.id}/workflows", json={"name": "w"}), 201)
    hook = {"url": "https://example.org/hook", "types": ["run.failed"]}
    accepted(api.client.post(f"/projects/{other.id}/webhooks", json=hook), 201)
    managed = other.create(command=["true"])
    reference = f"artifact:{hidden['id']}/m"
    with holding(api, "member", projects=[project.name]) as confined:
        assert [one["id"] for one in accepted(confined.get("/me"))["projects"]] == [project.id]
        assert [one["id"] for one in accepted(confined.get("/projects"))["items"]] == [project.id]
        for name in (other.id, other.name):
            for path, methods in DOCUMENT["paths"].items():
                if not path.startswith("/api/v1/projects/{project}"):
                    continue
                filled = path.replace("{project}", name).replace("{position}", "1").replace("{reader}", "relay")
                filled = re.sub(r"\{\w+\}", str(uuid7()), filled)
                for method, operation in methods.items():
                    if method in {"get", "head"} and "member" in operation["x-roles"]:
                        answer = confined.request(
                            method, f"{api.url}{filled}", params={"metric": "a", "group": "status", "name": "hidden"}
                        )
                        assert answer.status_code in {404, 422}, (method, filled, answer.text)
                        assert hidden["id"] not in answer.text
            refused(confined.post(f"/projects/{name}/query", json={"sql": "select * from runs"}), 404)
            refused(confined.post(f"/projects/{name}/audit/verify"), 404)
            refused(confined.post(f"/projects/{name}/runs", json={}), 404)
        for where in (hidden["id"], f"ext:{other.name}:x"):
            for path in ("", "/metrics", "/logs", "/events", "/stream", "/chart?metric=a", "/export", "/artifacts/m"):
                refused(confined.get(f"/runs/{where}{path}"), 404)
            refused(confined.post(f"/runs/{where}/kill", json={}), 404)
            refused(confined.post(f"/runs/{where}/metrics", json={"epoch": 1, "seq": 2, "series": point}), 404)
            refused(confined.delete(f"/runs/{where}"), 404)
        refused(confined.get(f"/artifacts/{saved['artifact_id']}"), 404)
        refused(confined.get(f"/workflows/{workflow['id']}"), 404)
        refused(confined.post("/projects", json={"name": "of my own"}), 403)
        for path in ("/workers", "/organisation/plan", "/organisation/credits"):
            refused(confined.get(path), 403)
        refused(confined.get(f"{api.url}/metrics"), 403)
        # what a worker would fetch for it
        for body in ({"command": ["true"], "code": reference}, {"command": ["true"], "dataset": reference}):
            refused(confined.post(f"/projects/{project.id}/runs", json=body), 422)
        volumes = [{"place": reference, "path": "in"}]
        refused(confined.post(f"/projects/{project.id}/workflows", json={"name": "v", "import_volumes": volumes}), 422)
        # sums
        usage = accepted(confined.get("/usage"))
        assert {one["project_id"] for one in usage["by_workflow"]} <= {project.id}
        assert (usage["active_runs"], usage["queued_runs"], usage["quotas"]) == (0, 0, [])
        assert managed["id"] not in [one["run_id"] for one in accepted(confined.get("/queue"))["queue"]]
        refused(confined.get("/usage/credits"), 422)
        refused(confined.get("/usage/credits", params={"project": other.name}), 404)
        accepted(confined.get("/usage/credits", params={"project": project.name}))
        # and its own works
        own = accepted(confined.post(f"/projects/{project.id}/runs", json={"external_id": "mine"}), 201)
        accepted(confined.get(f"/runs/ext:{project.name}:mine"))
        accepted(confined.post(f"/projects/{project.id}/query", json={"sql": "select * from runs"}))
        accepted(confined.get(f"/runs/{own['id']}/events"))
    assert managed["id"] in [one["run_id"] for one in accepted(api.client.get("/queue"))["queue"]]


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


def test_a_run_token_has_the_role_of_a_program(api: Api, project: Project):
    run, claim = claimed(project)
    with api.as_caller(claim["token"]) as program:
        me = accepted(program.get("/me"))
        assert (me["role"], me["key"], me["run_id"]) == ("program", None, run["id"])
        assert refused(program.get("/projects"), 403)["role"] == "program"


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
