"""Uploads in pieces, cut, mistaken, or many at once: each goes on where it was, or leaves nothing."""

import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from tests.api import Api, Json, Project, accepted, refused, until
from tests.integration.artifacts.saving import MIB, PART, noise, put, saved_events, stored, uploads
from tests.object_stores import Place


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
