"""Archives uploaded over HTTP and imported behind it: in pieces, once, over every death, and nothing of a bad one."""

import asyncio
import io
import json
import os
import random
import re
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, accepted, refused, serving, until
from tests.integration.archiving import content
from tests.servers import NatsServer, PostgresServer

PART = 4 << 20
MIB = 1 << 20


@pytest.fixture(scope="module")
def objects(servers_home: Path) -> Path:
    return servers_home / f"objects-{uuid7()}"


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, objects: Path) -> Iterator[Api]:
    environment = {"TACHOGRAPH_MAX_PROJECT_BYTES": str(64 * MIB), "TACHOGRAPH_OBJECT_STORE": str(objects)}
    with serving(postgres_server, nats_server, servers_home, environment=environment) as api:
        yield api


@pytest.fixture(scope="module")
def filled(api: Api) -> Project:
    """A project with two runs, one of them with a file of more than a part."""
    project = api.project()
    accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": "train", "command": ["true"]}), 201)
    first = project.started(name="first")
    accepted(project.log(first, 1, {"loss": {"step": [0, 1, 2], "value": [0.5, "NaN", 1e-320]}}), 202)
    accepted(project.write(first, 2, "hello", "ü"), 202)
    data = random.Random(1).randbytes(5 * MIB)
    accepted(api.client.put(f"/runs/{first['id']}/artifacts/weights.bin", content=data), 201)
    accepted(api.client.post(f"/runs/{first['id']}/finish", json={"epoch": 1, "status": "completed"}))
    project.finished(name="second")
    return project


def exported(project: Project) -> bytes:
    answer = project.api.get(f"/projects/{project.id}/export/archive", params={"artifacts": True})
    assert answer.status_code == 200
    return answer.content


def send(project: Project, job: Json, offset: int, data: bytes) -> httpx.Response:
    path = f"/projects/{project.id}/imports/{job['id']}"
    return project.api.patch(path, content=data, headers={"Upload-Offset": str(offset)})


def look(project: Project, job: Json) -> Json:
    return accepted(project.api.get(f"/projects/{project.id}/imports/{job['id']}"))


def opened(project: Project, size: int, **fields: object) -> Json:
    return accepted(project.api.post(f"/projects/{project.id}/imports", json={"bytes": size, **fields}), 201)


def ended(project: Project, job: Json) -> Json:
    until(lambda: look(project, job)["state"] in {"finished", "failed"}, "the import has ended")
    return look(project, job)


def imported(project: Project, data: bytes, **fields: object) -> Json:
    job = opened(project, len(data), **fields)
    accepted(send(project, job, 0, data), 202)
    return ended(project, job)


def parts(objects: Path, project: Project) -> list[Path]:
    """Return the parts of the project's uploads in the object store."""
    return [path for path in objects.rglob(f"run={project.id}/*/*") if path.is_file()]


def owner(api: Api, sql: str, *arguments: object) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(api.database.owner_url)
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_an_archive_goes_up_in_pieces_and_its_runs_are_there_once(
    api: Api, project: Project, filled: Project, objects: Path
) -> None:
    data = exported(filled)
    key = {"Idempotency-Key": "one"}
    body = {"bytes": len(data)}
    answer = api.client.post(f"/projects/{project.id}/imports", json=body, headers=key)
    job = accepted(answer, 201)
    assert answer.headers["location"] == f"/api/v1/projects/{project.id}/imports/{job['id']}"
    assert accepted(api.client.post(f"/projects/{project.id}/imports", json=body, headers=key), 201)["id"] == job["id"]
    assert (job["state"], job["offset"], job["part_bytes"], job["report"]) == ("uploading", 0, PART, None)

    assert accepted(send(project, job, 0, data[:PART]))["offset"] == PART
    assert "go on from there, not from 0" in refused(send(project, job, 0, data[:PART]), 409)["detail"]
    head = api.client.head(f"/projects/{project.id}/imports/{job['id']}")
    assert (head.status_code, head.headers["upload-offset"]) == (200, str(PART))
    assert refused(send(project, job, PART, data[PART : PART + 5]), 422)["errors"][0]["path"] == "Content-Length"
    last = send(project, job, PART, data[PART:])
    assert accepted(last, 202)["state"] in {"waiting", "running", "finished"}
    done = ended(project, job)
    assert (done["state"], done["runs_done"], done["runs"], done["rows_done"]) == ("finished", 2, 2, 5)
    report = done["report"]
    assert report["counts"] == {"new": 2}
    assert (report["points"], report["lines"], report["artifacts"], report["refused"]) == (3, 2, 1, [])
    assert len(report["runs"]) == 2
    assert [(one["kind"], one["name"], one["outcome"]) for one in report["definitions"]] == [
        ("workflow", "train", "new")
    ]
    (workflow,) = accepted(api.client.get(f"/projects/{project.id}/workflows"))["items"]
    assert (workflow["id"], workflow["name"]) == (report["definitions"][0]["id"], "train")
    assert content(exported(project)) == content(data)
    assert parts(objects, project) == []
    assert b"weights.bin" not in json.dumps(done).encode()

    before = project.head()
    again = imported(project, data)
    assert again["report"]["counts"] == {"already there": 2}
    assert project.head() == before
    listed = accepted(api.client.get(f"/projects/{project.id}/imports", params={"limit": 1}))
    assert [one["id"] for one in listed["items"]] == [again["id"]]
    following = accepted(api.client.get(f"/projects/{project.id}/imports", params={"cursor": listed["next_cursor"]}))
    assert [one["id"] for one in following["items"]] == [job["id"]]
    assert api.client.delete(f"/projects/{project.id}/imports/{job['id']}").status_code == 204
    refused(api.client.get(f"/projects/{project.id}/imports/{job['id']}"), 404)
    assert project.verified()["verified"]


def test_a_dry_run_checks_and_stores_nothing(project: Project, filled: Project) -> None:
    before = project.head()
    assert imported(project, exported(filled), dry_run=True)["report"]["counts"] == {"readable": 2}
    assert project.head() == before


def rewritten(data: bytes, compression: int = zipfile.ZIP_STORED, change: tuple[bytes, bytes] = (b"^", b"")) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, re.sub(*change, old.read(name)) if name == "manifest.json" else old.read(name))
    return made.getvalue()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[:-100], "no ZIP file"),
        (lambda data: b"\0" * 1_000, "no ZIP file"),
        (lambda data: rewritten(data, zipfile.ZIP_DEFLATED), "stores its files as they are"),
        (lambda data: rewritten(data, change=(b'"tachograph-export","version":', b"\\g<0>9")), "reads up to"),
        (lambda data: data.replace(b"run.created", b"run.creatEd", 1), "SHA-256 differs"),
    ],
)
def test_a_bad_archive_fails_and_leaves_nothing(project: Project, filled: Project, objects: Path, spoil, said) -> None:
    before = project.head()
    done = imported(project, spoil(exported(filled)))
    assert done["state"] == "failed"
    assert said in done["report"]["why"]
    assert project.head() == before
    assert parts(objects, project) == []


def test_what_cannot_be_taken_is_refused_at_once(api: Api, project: Project) -> None:
    path = f"/projects/{project.id}/imports"
    assert refused(api.client.post(path, json={"bytes": 65 * MIB}), 507)["limit"] == 64 * MIB
    refused(api.client.post(path, json={"bytes": 0}), 422)
    refused(api.client.post(path, json={"bytes": 1, "surprise": 1}), 422)
    job = opened(project, 10)
    assert refused(api.client.patch(f"{path}/{job['id']}", content=b"x"), 422)["errors"][0]["path"] == "Upload-Offset"
    refused(send(project, job, 0, b"x" * 11), 422)
    refused(api.client.get(f"{path}/{uuid7()}"), 404)
    with api.other_tenant() as other:
        refused(other.get(f"{path}/{job['id']}"), 404)
        refused(other.post(path, json={"bytes": 1}), 404)
    assert api.client.delete(f"{path}/{job['id']}").status_code == 204
    refused(send(project, job, 0, b"x" * 10), 404)
    for _ in range(16):
        opened(project, 1)
    assert "16 imports under way" in refused(api.client.post(path, json={"bytes": 1}), 507)["detail"]


def test_an_import_whose_process_is_killed_goes_on(api: Api, project: Project, objects: Path) -> None:
    source = api.project()
    run = source.started(name="long")
    steps = list(range(10_000))
    for seq in range(1, 41):
        accepted(source.log(run, seq, {"loss": {"step": steps, "value": [seq / 8] * 10_000}}), 202)
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    data = exported(source)
    job = opened(project, len(data))
    accepted(send(project, job, 0, data), 202)
    until(lambda: look(project, job)["state"] == "running", "the import has begun")
    pid = api.processes["service"].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    owner(api, "update operation.import_job set held_until = now() where import_id = $1", job["id"])  # later

    def answers() -> bool:
        try:
            return look(project, job)["state"] == "finished"
        except httpx.TransportError:
            return False

    until(answers, "the import was finished by the next process")
    done = look(project, job)
    assert owner(api, "select attempts from operation.import_job where import_id = $1", job["id"]) == 2
    assert sum(done["report"]["counts"].values()) == 1
    assert content(exported(project)) == content(data)
    assert parts(objects, project) == []
