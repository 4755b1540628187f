"""The read side and the commands: errors, repeats, pages and streams."""

import os
import socket
import threading

import pytest

import tachograph
from tachograph._http import backoff
from tachograph._stream import ServerEvent, parse


@pytest.fixture
def client(peer):
    with tachograph.Client(peer.url, "tg_x", retry_seconds=5) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, tachograph.Invalid),
        (401, tachograph.Unauthorized),
        (403, tachograph.Forbidden),
        (404, tachograph.NotFound),
        (409, tachograph.Conflict),
        (410, tachograph.Gone),
        (413, tachograph.TooLarge),
        (418, tachograph.Problem),
        (422, tachograph.Invalid),
    ],
)
def test_problems_have_types_and_say_what_is_possible(peer, client, status, kind):
    peer.answer = lambda seen: (
        status,
        {"title": "No", "status": status, "detail": "not now", "state": "running", "allowed": ["kill"], "limit": 5},
    )
    with pytest.raises(kind, match=r"not now \[possible: kill\]") as raised:
        client.delete("run-1")
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.title, error.detail, error.state) == (status, "No", "not now", "running")
    assert (error.allowed, error.limit, error.errors) == (["kill"], 5, [])
    assert len(peer.seen) == 1


def test_an_answer_that_is_no_problem_document_is_still_an_error(peer, client):
    peer.answer = lambda seen: (404, [])
    with pytest.raises(tachograph.NotFound, match="not as a Tachograph service answers"):
        client.run("x")


@pytest.mark.parametrize("passing", [(500, {}), (503, {}), (429, {"headers": {"Retry-After": "0"}}), None])
def test_what_fails_in_passing_is_repeated_as_the_same_request(peer, client, passing):
    answers = iter([passing, passing])
    peer.answer = lambda seen: next(answers, (200, {"id": "p1"}))
    assert client.create_project("digits")["id"] == "p1"
    assert len(peer.seen) == 3
    assert len({(seen.headers["idempotency-key"], seen.content) for seen in peer.seen}) == 1
    client.create_project("digits")
    assert len({seen.headers["idempotency-key"] for seen in peer.seen}) == 2


def test_a_claim_repeats_by_its_command_and_is_told_how_things_stand_by_then(peer, client):
    answers = iter([(503, {})])
    peer.answer = lambda seen: next(answers, (200, {"epoch": 1, "kill_requested": True}))
    assert client.claim("r", worker="w", command_id="c", slots=["cpu:0"])["kill_requested"]
    assert len({seen.content for seen in peer.seen}) == 1
    assert not any("idempotency-key" in seen.headers for seen in peer.seen)


def test_repeats_end(peer):
    peer.answer = lambda seen: (503, {"title": "Unavailable", "status": 503})
    client = tachograph.Client(peer.url, "tg_x", retry_seconds=0.5)
    with pytest.raises(tachograph.ServerError):
        client.usage()
    assert len(peer.seen) > 1
    client.close()


def test_a_client_persists_until_it_is_told_not_to(peer):
    answers = iter([(503, {})] * 3)
    peer.answer = lambda seen: next(answers, (200, {"id": "p1"}))
    waited = []

    def patient(seconds, error):
        waited.append((type(error), 0 < seconds <= 5))

    def impatient(seconds, error):
        raise InterruptedError(str(error))

    with tachograph.Client(peer.url, "tg_x", retry_seconds=0) as client:
        assert client.persisting(patient).project("p")["id"] == "p1"
        assert waited == [(tachograph.ServerError, True)] * 3
        answers = iter([(503, {})] * 3)
        with pytest.raises(InterruptedError, match="503"):
            client.persisting(impatient).project("p")
        with pytest.raises(tachograph.ServerError):
            client.project("p")  # is as it was
        assert len(peer.seen) == 6


def test_no_service_is_a_failed_connection():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = tachograph.Client(f"http://127.0.0.1:{port}", "tg_x", retry_seconds=0)
    with pytest.raises(tachograph.ConnectionFailed, match=str(port)):
        client.usage()


def test_a_service_that_says_nothing_is_a_failed_connection(peer):
    release = threading.Event()
    peer.answer = lambda seen: (200, {}) if release.wait(30) else None
    client = tachograph.Client(peer.url, "tg_x", retry_seconds=0, timeout_seconds=0.2)
    with pytest.raises(tachograph.ConnectionFailed):
        client.usage()
    release.set()
    client.close()


@pytest.mark.parametrize("url", ["", "localhost:8765", "ftp://x", "http://"])
def test_what_is_no_address_is_said_to_be_none(url, monkeypatch):
    monkeypatch.setenv("TACHOGRAPH_URL", "nonsense")
    with pytest.raises(tachograph.NotConfigured, match="URL"):
        tachograph.Client(url, "tg_x")


def test_lists_are_read_page_by_page(peer, client):
    pages = {"": ([1, 2], "c1"), "cursor=c1": ([3], None)}

    def answer(seen):
        cursor = next((part for part in seen.path.split("?")[1].split("&") if part.startswith("cursor")), "")
        items, following = pages[cursor]
        return (200, {"items": items, "next_cursor": following})

    peer.answer = answer
    assert list(client.runs("my project", status=["running", "queued"], page_size=2)) == [1, 2, 3]
    path = "/api/v1/projects/my%20project/runs?status=running&status=queued&limit=2"
    assert [seen.path for seen in peer.seen] == [path, path + "&cursor=c1"]


def test_charts_come_with_numbers(peer, client):
    column = [1.0, "NaN", "-Infinity"]
    series = {"metric": "a", "min": column, "max": column, "first": column, "last": column, "mean": column}
    peer.answer = lambda seen: (200, {"series": [series]})
    (curve,) = client.chart("run-1", ["a", "b"], x="time", start=1, buckets=10)
    for name in ("min", "max", "first", "last", "mean"):
        assert [str(value) for value in curve[name]] == ["1.0", "nan", "-inf"]
    assert peer.seen[0].path.endswith("/chart?metric=a&metric=b&x=time&from=1&buckets=10")


def test_metrics_and_logs_of_a_worker_are_keyed_by_their_number(peer, client):
    series = {"x": {"step": [1], "value": [float("nan")]}}
    client.send_metrics("run-1", epoch=2, source="worker", seq=3, series=series)
    client.send_logs("run-1", epoch=2, source="worker", seq=4, lines=[{"time_us": 1, "stream": "stdout", "text": "hi"}])
    metrics, logs = peer.seen
    assert metrics.body["series"] == {"x": {"step": [1], "value": ["NaN"]}}
    assert logs.body == {
        "epoch": 2,
        "source": "worker",
        "seq": 4,
        "lines": [{"time_us": 1, "stream": "stdout", "text": "hi"}],
    }
    assert metrics.headers["idempotency-key"] == "run-1/2/worker/3"


def test_logs_are_followed_until_the_run_has_ended(peer, client):
    pages = iter(
        [
            {"lines": [], "next": None, "last": None},
            {"lines": [{"text": "a"}, {"text": "b"}], "next": "1:1", "last": "1:1"},
            {"lines": [{"text": "c"}], "next": None, "last": "2:0"},
            {"lines": [{"text": "d"}], "next": None, "last": "3:0"},
        ]
    )
    statuses = iter(["queued", "running", "completed"])

    def answer(seen):
        return (200, next(pages) if "/logs" in seen.path else {"status": next(statuses)})

    peer.answer = answer
    assert [line["text"] for line in client.stream_logs("run-1", poll_seconds=0.01)] == ["a", "b", "c", "d"]
    asked = [seen.path.partition("?")[2] for seen in peer.seen if "/logs" in seen.path]
    assert asked == ["", "", "after=1%3A1", "after=2%3A0"]


def test_waiting_has_an_end(peer, client):
    peer.answer = lambda seen: (200, {"status": "running"})
    with pytest.raises(TimeoutError, match="still running"):
        client.wait("run-1", timeout_seconds=0.1, poll_seconds=0.02)


def test_bodies_hold_what_json_cannot_by_name(peer, client):
    client.create_run("p", config={"lr": float("inf")})
    assert peer.seen[0].body == {"config": {"lr": "Infinity"}}


def test_many_threads_and_a_forked_child_share_a_client(peer, client):
    def ask() -> None:
        for _ in range(20):
            client.usage()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    pid = os.fork()
    if pid == 0:
        try:
            ask()
        finally:
            os._exit(0)
    for thread in threads:
        thread.join()
    os.waitpid(pid, 0)
    assert len(peer.seen) == 100


def test_server_sent_events_are_parsed():
    text = ': hello\nid: 4\nevent: run.started\ndata: {"a":\ndata: 1}\n\ndata: plain\n\nevent: cut\ndata: off'
    assert list(parse(text.split("\n"))) == [
        ServerEvent(4, "run.started", {"a": 1}),
        ServerEvent(4, "message", "plain"),
    ]


def test_waits_grow_and_stay_within_bounds():
    waits = [backoff(attempt) for attempt in range(1, 30)]
    assert all(0.1 <= wait <= 30.0 for wait in waits)
    assert waits[0] <= 0.2
    assert waits[-1] > 10
    asked = tachograph.TooManyRequests(429, {}, retry_after=7)
    assert backoff(1, asked) == 7.0
