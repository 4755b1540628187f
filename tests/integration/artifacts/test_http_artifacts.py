"""Artifacts over HTTP, kept in a directory and in S3: what comes back is what went in, and nothing is half stored."""

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from events.ids import uuid7
from stack.ports import free_port
from tests.api import Api, Json, Project, accepted, refused, serving
from tests.integration.artifacts.saving import MIB, PART, noise, put, saved_events, stored, uploads
from tests.object_stores import Place
from tests.servers import NatsServer, PostgresServer


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
