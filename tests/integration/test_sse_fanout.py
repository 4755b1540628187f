"""Event streams when there are many: one reader a ledger, a bound for each client and each key, and a reason given."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit
from uuid import UUID

import httpx

from service import tails
from service.tails import Follower, Told
from tests.api import SECONDS, Api, Json, Project, accepted, refused, until


def figure(api: Api, name: str) -> float:
    text = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    return float(text.split(f"\n{name} ")[1].split()[0])


def ids(answer: httpx.Response, count: int) -> list[int]:
    found: list[int] = []
    for line in answer.iter_lines():
        if line.startswith("id: "):
            found.append(int(line[4:]))
            if len(found) == count:
                break
    return found


def test_many_clients_of_a_ledger_have_one_reader(api: Api) -> None:
    project = api.project()
    run = project.started()
    with ExitStack() as stack:
        answers = [
            stack.enter_context(api.client.stream("GET", f"/projects/{project.id}/stream", params={"after": 0}))
            for _ in range(20)
        ]
        until(lambda: figure(api, "tachograph_sse_clients") == 20, "all are followed")
        until(lambda: figure(api, "tachograph_sse_feeds") == 1, "by one feed")
        for seq in range(1, 6):
            accepted(project.log(run, seq, {"a": {"step": [seq], "value": [0.5]}}), 202)
        for answer in answers:
            assert ids(answer, 8) == list(range(1, 9))
    until(lambda: figure(api, "tachograph_sse_feeds") == 0, "the feed ends with its last client")


def test_a_key_has_a_limited_number_of_streams(api: Api) -> None:
    project = api.project()
    path = f"/projects/{project.id}/stream"
    key = httpx.Client(
        base_url=api.client.base_url,
        headers=api.client.headers,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        timeout=SECONDS,
    )
    with key, ExitStack() as stack:
        for _ in range(tails.MAX_STREAMS_PER_KEY):
            assert stack.enter_context(key.stream("GET", path)).status_code == 200
        problem = refused(key.get(path), 429)
        assert problem["type"] == "urn:tachograph:problem:too-many-streams"
        assert problem["limit"] == tails.MAX_STREAMS_PER_KEY
    until(lambda: figure(api, "tachograph_sse_clients") == 0, "closed streams are counted out")
    with api.client.stream("GET", path) as answer:
        assert answer.status_code == 200


def large(project: Project, run: Json, seq: int) -> None:
    points = 12_000
    series = {"a": {"step": list(range(points)), "value": [0.123456789] * points, "time_us": [seq] * points}}
    accepted(project.log(run, seq, series), 202)


def test_a_client_that_does_not_read_is_cut_off_with_the_reason(api: Api) -> None:
    project = api.project()
    run = project.started()
    address = urlsplit(api.url)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((address.hostname, address.port))
        path = f"/api/v1/projects/{project.id}/stream"
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {api.key}\r\n\r\n".encode())
        slow.settimeout(SECONDS)
        assert slow.recv(12) == b"HTTP/1.1 200"
        until(lambda: figure(api, "tachograph_sse_feeds") == 1, "it is followed")
        for seq in range(1, 61):
            large(project, run, seq)
        heard = b""
        while b"event: cut" not in heard or not heard.rstrip().endswith(b"0"):
            piece = slow.recv(1 << 20)
            assert piece, "it ended without a reason"
            heard = heard[-2_000:] + piece
    assert b"too slow" in heard
    assert b'"last_event_id":' in heard
    until(lambda: figure(api, "tachograph_sse_clients") == 0, "it is counted out")


async def test_a_queue_is_bounded_by_events_and_by_bytes() -> None:
    for size, count in ((1, tails.MAX_QUEUED_EVENTS), (1 << 20, tails.MAX_QUEUED_BYTES >> 20)):
        follower = Follower(None, None)
        for position in range(count):
            follower.give(Told(position, "run.created", b"x" * size))
        assert follower.reason is None
        follower.give(Told(count, "run.created", b"x" * size))
        assert follower.reason is not None
        assert await follower.take(0) == ()


async def test_who_takes_what_is_queued_has_room_again() -> None:
    follower = Follower(UUID(int=1), ["run.created"])
    for position in range(3 * tails.MAX_QUEUED_EVENTS):
        follower.give(Told(position, "run.created", b""))
        if position % 1_000 == 999:
            assert len(await follower.take(0)) == 1_000
    assert follower.reason is None


def test_a_key_is_counted_out_once() -> None:
    one = tails.Tails()
    leave = one.enter("key:a")
    other = one.enter("key:a")
    leave()
    leave()
    assert one.followers == 1
    other()
    assert one.followers == 0
