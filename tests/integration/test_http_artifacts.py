"""Artifacts over HTTP, kept in a directory and in S3: what comes back is what went in, and nothing is half stored."""

import asyncio
import hashlib
import os
import random
import socket
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import psutil
import pytest

from events.ids import uuid7
from projections.storage.objects import ObjectStore
from stack.ports import free_port
from tests.api import Api, Json, Project, accepted, refused, serving, until
from tests.object_stores import Place, S3Server
from tests.servers import NatsServer, PostgresServer

PART = 4 << 20
MIB = 1 << 20
LIMITS = {
    "TACHOGRAPH_MAX_ARTIFACT_BYTES": str(300 * MIB),
    "TACHOGRAPH_MAX_RUN_ARTIFACTS": "12",
    "TACHOGRAPH_MAX_RUN_UPLOADS": "6",
    "TACHOGRAPH_MAX_PROJECT_BYTES": str(400 * MIB),
}


@pytest.fixture(scope="module", params=["directory", "s3"])
def where(request: pytest.FixtureRequest, servers_home: Path) -> Place:
    if request.param == "directory":
        return Place(str(servers_home / f"objects-{uuid7()}"), {})
    s3: S3Server = request.getfixturevalue("s3")
    return s3.bucket()


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, where: Place) -> Iterator[Api]:
    environment = {**LIMITS, **where.environment, "TACHOGRAPH_OBJECT_STORE": where.url}
    with serving(postgres_server, nats_server, servers_home, environment=environment) as api:
        yield api


@pytest.fixture
def run(project: Project) -> Json:
    return project.started()


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


def test_a_file_comes_back_as_it_went(api: Api, project: Project, run: Json, where: Place) -> None:
    data = noise(2 * PART + 1_001)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"/runs/{run['id']}/artifacts/checkpoints/best%20%C3%A9.pt"
    digest = f"sha-256=:{b64encode(bytes.fromhex(sha256)).decode()}:"
    answer = api.client.put(
        path, content=data, params={"kind": "model", "caption": "the best – so far"},
        headers={"Content-Type": "application/x-pytorch; v=2", "Repr-Digest": digest},
    )  # fmt: skip
    saved = accepted(answer, 201)
    assert saved == {
        "artifact_id": saved["artifact_id"], "run_id": run["id"], "name": "checkpoints/best é.pt", "kind": "model",
        "bytes": len(data), "sha256": sha256, "media_type": "application/x-pytorch; v=2",
        "caption": "the best – so far", "position": project.head()["position"], "saved_at": saved["saved_at"],
    }  # fmt: skip
    (event,) = saved_events(project, run)
    assert (event["position"], event["data"]["sha256"]) == (saved["position"], sha256)
    assert [size for _, size in stored(where, run)] == [PART + 28, PART + 28, 1_001 + 28]
    assert uploads(api, run) == 0

    for address in (path, f"/artifacts/{saved['artifact_id']}"):
        whole = api.client.get(address)
        assert (whole.status_code, whole.content) == (200, data)
        assert whole.headers["content-length"] == str(len(data))
        assert whole.headers["etag"] == f'"{sha256}"'
        assert whole.headers["repr-digest"] == digest
        assert whole.headers["content-type"] == "application/x-pytorch; v=2"
        assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''best%20%C3%A9.pt"
        assert whole.headers["x-content-type-options"] == "nosniff"
        head = api.client.head(address)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
        assert api.client.get(address, headers={"If-None-Match": f'"{sha256}"'}).status_code == 304
    assert accepted(api.client.get(f"/runs/{run['id']}/artifacts"))["items"] == [saved]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=4194300-4194310", 4_194_300, 4_194_310),
        ("bytes=5-", 5, 2 * PART + 9),
        ("bytes=-3", 2 * PART + 7, 2 * PART + 9),
        ("bytes=0-99999999999", 0, 2 * PART + 9),
        ("bytes=-99999999999", 0, 2 * PART + 9),
    ],
)
def test_a_range_is_those_bytes(api: Api, run: Json, asked: str, first: int, last: int) -> None:
    data = noise(2 * PART + 10)
    accepted(put(api, run, "data.bin", data), 201)
    path = f"/runs/{run['id']}/artifacts/data.bin"
    part = api.client.get(path, headers={"Range": asked})
    assert (part.status_code, part.content) == (206, data[first : last + 1])
    assert part.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"
    same = {"Range": asked, "If-Range": part.headers["etag"]}
    assert api.client.get(path, headers=same).status_code == 206
    assert api.client.get(path, headers={"Range": asked, "If-Range": '"another"'}).content == data


def test_a_range_behind_the_end_is_refused(api: Api, run: Json) -> None:
    accepted(put(api, run, "a", b"0123456789"), 201)
    accepted(put(api, run, "empty", b""), 201)
    for name, size in (("a", 10), ("empty", 0)):
        answer = api.client.get(f"/runs/{run['id']}/artifacts/{name}", headers={"Range": "bytes=10-"})
        assert refused(answer, 416)["limit"] == size
        assert answer.headers["content-range"] == f"bytes */{size}"
    assert api.client.get(f"/runs/{run['id']}/artifacts/empty").content == b""


def test_the_same_again_changes_nothing_and_another_content_is_a_new_version(
    api: Api, project: Project, run: Json, where: Place
) -> None:
    first = accepted(put(api, run, "m", b"one", kind="model"), 201)
    assert accepted(put(api, run, "m", b"one", kind="model")) == first
    assert len(saved_events(project, run)) == 1
    second = accepted(put(api, run, "m", b"two", kind="model"), 201)
    captioned = accepted(put(api, run, "m", b"two", kind="model", caption="better"), 201)
    copy = accepted(put(api, run, "copies/m", b"one", kind="model"), 201)
    back = accepted(put(api, run, "m", b"one", kind="model"), 201)
    assert len({one["artifact_id"] for one in (first, second, captioned, copy, back)}) == 5
    assert len(stored(where, run)) == 2  # two contents, each stored once
    path = f"/runs/{run['id']}/artifacts"
    assert accepted(api.client.get(path))["items"] == [copy, back]
    assert accepted(api.client.get(path, params={"versions": True}))["items"] == [copy, back, captioned, second, first]
    assert api.client.get(f"{path}/m").content == b"one"
    assert api.client.get(f"/artifacts/{second['artifact_id']}").content == b"two"


def test_lists_are_paged_and_narrowed(api: Api, run: Json) -> None:
    names = ["a/1", "a/2", "a/3", "b/1", "b/2"]
    for name in names:
        accepted(put(api, run, name, name.encode(), kind="image" if name.endswith("1") else "table"), 201)
    accepted(put(api, run, "a/2", b"newer", kind="table"), 201)
    path = f"/runs/{run['id']}/artifacts"

    def listed(**parameters: object) -> list[str]:
        found: list[str] = []
        cursor = None
        while True:
            given = {**parameters, "limit": 2, **({"cursor": cursor} if cursor else {})}
            page = accepted(api.client.get(path, params=given))
            found += [one["name"] for one in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    assert listed() == names
    assert listed(versions=True) == ["a/1", "a/2", "a/2", "a/3", "b/1", "b/2"]
    assert listed(kind="image") == ["a/1", "b/1"]
    assert listed(prefix="a/") == ["a/1", "a/2", "a/3"]
    assert listed(prefix="%") == []
    refused(api.client.get(path, params={"kind": "virus"}), 422)
    refused(api.client.get(path, params={"cursor": "?"}), 422)


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fetc%2fpasswd", "a/%2e%2e/b", "%2e%2e", "a/%2e/b", "a%00b", "a%0ab", "a%7fb", "a%5cb",
        "%ff%fe", "x" * 251, "%e2%80%ae.exe",
    ],
)  # fmt: skip
def test_a_name_that_climbs_or_is_none_is_refused(api: Api, run: Json, where: Place, name: str) -> None:
    problem = refused(put(api, run, name, b"x"), 422)
    assert problem["errors"][0]["path"] == "name"
    refused(api.client.get(f"/runs/{run['id']}/artifacts/{name}"), 422)
    assert stored(where, run) == []


def test_odd_names_are_names(api: Api, run: Json) -> None:
    for name in ("...", "a..b", "con", "a b", "x" * 250, "%25", "-rf", "日本", "a%3ab", "a%3f"):
        accepted(put(api, run, name, name.encode()), 201)
        assert api.client.get(f"/runs/{run['id']}/artifacts/{name}").content == name.encode()


def test_what_cannot_be_taken_is_refused_whole(api: Api, run: Json, where: Place) -> None:
    path = f"/runs/{run['id']}/artifacts/a"
    refused(api.client.put(path, content=b"x", params={"kind": "virus"}), 422)
    refused(api.client.put(path, content=b"x", params={"caption": "x" * 1_001}), 422)
    refused(api.client.put(path, content=b"x", headers={"Content-Type": "text"}), 422)
    refused(api.client.put(path, content=b"x", headers={"Repr-Digest": "sha-256=:abc=:"}), 422)
    other = b64encode(hashlib.sha256(b"y").digest()).decode()
    problem = refused(api.client.put(path, content=b"x", headers={"Repr-Digest": f"sha-256=:{other}:"}), 422)
    assert hashlib.sha256(b"x").hexdigest() in problem["detail"]
    assert refused(api.client.put(path, content=iter([b"x"])), 411)["status"] == 411
    refused(api.client.get(path), 404)
    refused(api.client.get(f"/artifacts/{uuid7()}"), 404)
    assert (stored(where, run), uploads(api, run)) == ([], 0)


def test_files_of_any_type_pass_untouched(api: Api, run: Json) -> None:
    packed = b"\x81\xa1a\x01"
    for media_type, data in (("application/msgpack", packed), ("application/json", b'{"a": 1}')):
        path = f"/runs/{run['id']}/artifacts/{media_type}"
        accepted(api.client.put(path, content=data, headers={"Content-Type": media_type}), 201)
        answer = api.client.get(path, headers={"Accept": "application/msgpack"})
        assert (answer.content, answer.headers["content-type"]) == (data, media_type)


def test_past_a_limit_the_limit_is_named(api: Api, project: Project, run: Json, where: Place) -> None:
    path = f"/runs/{run['id']}"

    def opened(size: int) -> httpx.Response:
        return api.client.post(f"{path}/uploads", json={"name": "big", "bytes": size})

    assert refused(opened(300 * MIB + 1), 413)["limit"] == 300 * MIB
    first = accepted(opened(300 * MIB), 201)
    problem = refused(opened(101 * MIB), 507)
    assert (problem["limit"], "project" in problem["detail"]) == (400 * MIB, True)
    accepted(opened(99 * MIB), 201)
    for _ in range(4):
        accepted(opened(0), 201)
    assert refused(opened(0), 507)["limit"] == 6
    assert api.client.delete(f"{path}/uploads/{first['id']}").status_code == 204
    accepted(opened(300 * MIB), 201)

    full = project.started()
    for number in range(12):
        accepted(put(api, full, f"f{number}", b"x"), 201)
    assert refused(put(api, full, "one more", b"x"), 507)["limit"] == 12
    assert len(stored(where, full)) == 1


def cut(api: Api, method: str, path: str, announced: int, data: bytes, *headers: str) -> None:
    """Send some of a body and hang up."""
    address = urlsplit(api.url)
    lines = [
        f"{method} /api/v1{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {api.key}",
        f"Content-Length: {announced}", *headers, "", "",
    ]  # fmt: skip
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall("\r\n".join(lines).encode() + data)


def test_an_upload_cut_half_way_leaves_nothing(api: Api, project: Project, run: Json, where: Place) -> None:
    path = f"/runs/{run['id']}/artifacts/cut"
    cut(api, "PUT", path, 20 * MIB, noise(9 * MIB))
    until(lambda: stored(where, run) == [] and uploads(api, run) == 0, "the upload is removed")
    refused(api.client.get(path), 404)
    assert saved_events(project, run) == []
    accepted(put(api, run, "cut", b"whole"), 201)


def test_an_upload_goes_on_after_a_cut(api: Api, project: Project, run: Json, where: Place) -> None:
    data = noise(3 * PART + 77, seed=3)
    wish = {"name": "models/m", "bytes": len(data), "kind": "model", "sha256": hashlib.sha256(data).hexdigest()}
    opening = api.client.post(f"/runs/{run['id']}/uploads", json=wish, headers={"Idempotency-Key": "k"})
    upload = accepted(opening, 201)
    assert opening.headers["location"].endswith(upload["id"])
    again = api.client.post(f"/runs/{run['id']}/uploads", json=wish, headers={"Idempotency-Key": "k"})
    assert accepted(again, 201) == upload
    other = {**wish, "name": "another"}
    refused(api.client.post(f"/runs/{run['id']}/uploads", json=other, headers={"Idempotency-Key": "k"}), 409)
    assert (upload["offset"], upload["part_bytes"], upload["artifact"]) == (0, PART, None)
    path = f"/runs/{run['id']}/uploads/{upload['id']}"

    cut(api, "PATCH", path, len(data), data[: PART + 12_345], "Upload-Offset: 0")

    def durable() -> bool:
        answer = api.client.head(path)
        return answer.headers["upload-offset"] == str(PART)

    until(durable, "a whole part is durable")

    def sent(offset: int, piece: bytes) -> httpx.Response:
        return api.client.patch(path, content=piece, headers={"Upload-Offset": str(offset)})

    assert str(PART) in refused(sent(0, data), 409)["detail"]
    assert refused(sent(PART, data[PART : PART + 5]), 422)["limit"] == PART
    refused(api.client.patch(path, content=b""), 422)

    def taken() -> Json | None:  # the request that was cut may not have let go yet
        answer = sent(PART, data[PART : 2 * PART])
        return None if answer.status_code == 429 else accepted(answer)

    assert until(taken, "the upload goes on")["offset"] == 2 * PART
    assert saved_events(project, run) == []
    done = accepted(sent(2 * PART, data[2 * PART :]), 201)
    assert (done["offset"], done["artifact"]["sha256"]) == (len(data), wish["sha256"])
    assert accepted(sent(2 * PART, data[2 * PART :])) == done  # the answer was lost, say
    assert accepted(api.client.get(path)) == done
    assert api.client.get(f"/runs/{run['id']}/artifacts/models/m").content == data
    assert uploads(api, run) == 0
    assert len(stored(where, run)) == 4


def test_an_upload_of_something_else_than_was_said_is_removed(api: Api, run: Json, where: Place) -> None:
    wish = {"name": "m", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    upload = accepted(api.client.post(f"/runs/{run['id']}/uploads", json=wish), 201)
    path = f"/runs/{run['id']}/uploads/{upload['id']}"
    refused(api.client.patch(path, content=b"abd", headers={"Upload-Offset": "0"}), 422)
    refused(api.client.get(path), 404)
    assert (stored(where, run), uploads(api, run)) == ([], 0)


def test_many_at_once_that_save_the_same_save_one(api: Api, project: Project, run: Json, where: Place) -> None:
    data = noise(PART + 5, seed=9)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: put(api, run, "same", data, kind="dataset"), range(6)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["artifact_id"] for answer in answers}) == 1
    assert len(saved_events(project, run)) == 1
    assert len(stored(where, run)) == 2
    assert uploads(api, run) == 0


def test_nobody_else_sees_it_and_a_deleted_run_has_none(api: Api, project: Project) -> None:
    run = project.started()
    saved = accepted(put(api, run, "secret", b"content"), 201)
    upload = accepted(api.client.post(f"/runs/{run['id']}/uploads", json={"name": "x", "bytes": 1}), 201)
    with api.other_tenant() as stranger:
        for path in (f"/runs/{run['id']}/artifacts/secret", f"/artifacts/{saved['artifact_id']}"):
            refused(stranger.get(path), 404)
        refused(stranger.put(f"/runs/{run['id']}/artifacts/secret", content=b"x"), 404)
        refused(stranger.get(f"/runs/{run['id']}/artifacts"), 404)
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    accepted(put(api, run, "late", b"after the end"), 201)
    accepted(api.client.delete(f"/runs/{run['id']}"))
    refused(put(api, run, "later", b"x"), 410)
    refused(api.client.get(f"/artifacts/{saved['artifact_id']}"), 410)
    refused(api.client.get(f"/runs/{run['id']}/artifacts/secret"), 410)
    refused(api.client.get(f"/runs/{run['id']}/artifacts"), 410)
    gone = f"/runs/{run['id']}/uploads/{upload['id']}"
    refused(api.client.patch(gone, content=b"x", headers={"Upload-Offset": "0"}), 410)


def test_memory_does_not_grow_with_a_file(api: Api, project: Project, where: Place) -> None:
    if where.environment:
        pytest.skip("one store tells; the S3 server keeps its objects in memory")
    run, size = project.started(), 256 * MIB
    process = psutil.Process(api.processes["service"].pid)
    accepted(put(api, run, "small", noise(MIB)), 201)
    before = process.memory_info().rss
    chunk, digest, most = noise(MIB), hashlib.sha256(), 0

    def body() -> Iterator[bytes]:
        nonlocal most
        for number in range(size // MIB):
            piece = number.to_bytes(4, "big") + chunk[4:]
            digest.update(piece)
            most = max(most, process.memory_info().rss)
            yield piece

    path = f"/runs/{run['id']}/artifacts/big"
    saved = accepted(api.client.put(path, content=body(), headers={"Content-Length": str(size)}), 201)
    assert saved["sha256"] == digest.hexdigest()
    came = hashlib.sha256()
    with api.client.stream("GET", path) as answer:
        for piece in answer.iter_bytes():
            came.update(piece)
            most = max(most, process.memory_info().rss)
    assert came.hexdigest() == saved["sha256"]
    assert most - before < 96 * MIB


def test_without_its_object_store_the_record_goes_on(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
) -> None:
    environment = {
        **os.environ, "TACHOGRAPH_OBJECT_STORE": "s3://nowhere", "AWS_ACCESS_KEY_ID": "id-31b9",
        "AWS_SECRET_ACCESS_KEY": "secret-31b9", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
    }  # fmt: skip
    with serving(postgres_server, nats_server, servers_home, environment=environment) as api:
        ready = accepted(httpx.get(f"{api.url}/readyz"))
        assert ready["ready"]
        assert "artifacts wait" in ready["checks"]["objects"]
        run = api.project().started()
        answer = put(api, run, "a", b"x")
        assert "object store" in refused(answer, 503)["detail"]
        assert answer.headers["retry-after"]
        accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": "goes on"}))
        assert "31b9" not in str(ready) + answer.text
        assert "31b9" not in "".join(log.read_text() for log in api.home.glob("logs/*.log"))
