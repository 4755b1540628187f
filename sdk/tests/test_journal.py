"""What a killed process leaves behind reaches the service: once each, in order."""

import logging
from pathlib import Path
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tachograph
from tachograph import _spool
from tachograph.__main__ import main
from tachograph._encoding import Line, Rows
from tachograph._frames import Batch, Header, Request
from tachograph._outbox import Outbox
from tachograph._requests import Logged, Requests
from tachograph._spool import Spool, read
from tachograph._sync import requests_in

HEADER = Header(url="http://127.0.0.1:1", run_id="run-1", epoch=1, source="sdk")


class Program:
    """What a program does up to its end, step by step."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self.path = directory / "one.spool"
        self.outbox = Outbox(lambda: Spool(self.path, HEADER), memory_bytes=memory_bytes, disk_bytes=1 << 30)
        self.requests = Requests("run-1", 1, "sdk")
        self.pieces: list[Logged] = []
        self.logged = 0
        self.number = 0
        self.delivered: list[Request] = []

    def log(self, points: int) -> None:
        """Log and write to the journal."""
        rows = Rows(("x",), None)
        for value in range(self.logged, self.logged + points):
            rows.values.append(value)
            rows.steps.append(value)
            rows.times.append(value)
        self.logged += points
        self.number += 1
        piece = Logged(self.number, [rows], [Line(1, "log", "one")] if points % 2 else [])
        self.outbox.note([piece.piece(self.requests.last)])
        self.pieces.append(piece)

    def batch(self, pieces: int) -> None:
        """Make requests of the first pieces."""
        together, self.pieces = self.pieces[:pieces], self.pieces[pieces:]
        if together:
            requests = self.requests.made_of(together)
            assert self.outbox.put(Batch(together[-1].number, self.requests.last, requests))

    def deliver(self, number: int) -> None:
        for _ in range(min(number, self.outbox.left().requests)):
            head = self.outbox.head()
            assert head is not None
            self.delivered.append(head)
            self.outbox.drop(head)


def recovered(path: Path) -> list[Request]:
    with path.open("rb") as file:
        found = read(file)
        return list(requests_in(*found)) if found is not None else []


def stored(requests: list[Request]) -> list[int]:
    """Return the points that a service has after these, which knows each by its key."""
    known: dict[str, bytes] = {}
    points = []
    for request in requests:
        if request.key in known:
            assert known[request.key] == request.content
            continue
        known[request.key] = request.content
        if request.path.endswith("/metrics"):
            points += msgspec.msgpack.decode(request.content)["series"]["x"]["step"]
    return points


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("log"), st.integers(1, 4)),
        st.tuples(st.just("batch"), st.integers(1, 4)),
        st.tuples(st.just("deliver"), st.integers(1, 4)),
    ),
    min_size=1,
    max_size=60,
)


@given(STEPS, st.sampled_from([0, 700, 1 << 20]), st.sampled_from([300, 900, 1 << 20]))
def test_wherever_a_process_is_killed_every_point_arrives_once_and_in_order(tmp_path_factory, steps, memory, compact):
    with mock.patch.object(_spool, "COMPACT_BYTES", compact):
        program = Program(tmp_path_factory.mktemp("journal"), memory)
        for name, number in steps:
            getattr(program, name)(number)
        if not program.logged:
            return
        left = recovered(program.path)
        assert stored(program.delivered + left) == list(range(program.logged))
        assert stored(program.delivered + left[: len(left) // 2] + recovered(program.path)) == list(
            range(program.logged)
        )
        numbers = {request.key for request in program.delivered + left if request.path.endswith(("/metrics", "/logs"))}
        assert numbers == {f"run-1/1/sdk/{number + 1}" for number in range(len(numbers))}
        program.outbox.abandon()


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_torn_batch_leaves_its_pieces(tmp_path, cut):
    program = Program(tmp_path, 1 << 20)
    program.log(2)
    program.log(3)
    program.batch(2)
    content = program.path.read_bytes()
    program.path.write_bytes(content[:-cut])
    assert stored(recovered(program.path)) == [0, 1, 2, 3, 4]
    program.outbox.abandon()


def test_the_journal_stays_short_while_the_service_keeps_up(tmp_path, monkeypatch):
    monkeypatch.setattr(_spool, "COMPACT_BYTES", 4_000)
    program = Program(tmp_path, 1 << 20)
    largest = 0
    for _ in range(500):  # one batch is always under way, so the file is never empty
        program.log(4)
        program.batch(1)
        program.deliver(program.outbox.left().requests - 1)
        largest = max(largest, program.path.stat().st_size)
    assert largest < 5_000
    assert stored(program.delivered + recovered(program.path)) == list(range(2_000))
    program.deliver(10)
    assert program.outbox.keep() is None
    assert not list(tmp_path.iterdir())


def test_a_file_of_the_first_format_is_read(tmp_path):
    """Those held requests alone, a frame each, and no mark."""
    request = Request("POST", "/api/v1/runs/run-1/metrics", "run-1/1/sdk/1", b"", "application/json", 1, 0)
    header = msgspec.json.encode({"format": 1, "url": "x", "run_id": "run-1", "epoch": 1, "source": "sdk"})
    content = [_spool._framed(header), _spool._framed(msgspec.msgpack.encode(request))]
    (tmp_path / "old.spool").write_bytes(b"".join(content))
    assert recovered(tmp_path / "old.spool") == [request]


KILLED = """
import sys, time, tachograph
run = tachograph.init("p", external_id="mine")
for number in range(100):
    run.log({"x": float(number)}, step=number)
run.log_text("and text")
run.summary({"note": "kept"})
print("ready", flush=True)
time.sleep(600)
"""


def killed(script, peer, until, home) -> Path:
    """Have a program log while the service does not answer, and kill it once all is in its journal."""
    peer.answer = lambda seen: (
        (503, {}) if seen.path.endswith(("/metrics", "/logs")) or seen.method == "PATCH" else (200, {})
    )
    program = script(KILLED, peer.url)
    assert program.stdout.readline() == "ready\n"
    until(lambda: list((home / "spool").glob("*.spool")))
    (path,) = (home / "spool").glob("*.spool")
    until(lambda: sum(request.points + request.lines for request in recovered(path)) == 101)
    program.kill()
    program.communicate(timeout=120)
    assert not peer.points().get("x", [])[100:]
    peer.seen.clear()
    peer.answer = lambda seen: (200, {})
    return path


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


def arrived(peer) -> None:
    assert peer.points() == {"x": [(number, float(number)) for number in range(100)]}
    assert [line["text"] for seen in peer.to("/logs") for line in seen.body["lines"]] == ["and text"]
    assert [seen.body for seen in peer.seen if seen.method == "PATCH"] == [{"summary": {"note": "kept"}}]


def test_what_a_killed_program_logged_is_delivered_by_sync(script, peer, until, home):
    path = killed(script, peer, until, home)
    assert tachograph.sync(url=peer.url, api_key="tg_x", run_id="run-2").files == 0
    synced = tachograph.sync(url=peer.url, api_key="tg_x", run_id="run-1")
    assert (synced.files, synced.refused, synced.skipped) == (1, 0, [])
    arrived(peer)
    assert not path.exists()


def test_a_command_delivers_what_was_left(script, peer, until, home, capsys, monkeypatch):
    path = killed(script, peer, until, home)
    monkeypatch.setenv("TACHOGRAPH_URL", peer.url)
    monkeypatch.setenv("TACHOGRAPH_API_KEY", "tg_x")
    assert main(["sync", "--run", "run-2"]) == 0
    assert main(["sync", str(path.parent)]) == 0
    assert capsys.readouterr().out.startswith(
        "0 journals with 0 requests were delivered, 0 requests refused\n1 journals"
    )
    arrived(peer)
    peer.close()
    path.write_bytes(b"torn")
    assert main(["sync"]) == 0  # a file that was just begun may be about to get its header
    assert path.exists()


def test_the_next_program_delivers_what_a_killed_one_left(script, peer, until, home, caplog):
    killed(script, peer, until, home)
    caplog.set_level(logging.WARNING)
    run = tachograph.init("other", url=peer.url, api_key="tg_x")
    until(lambda: "earlier processes had left" in caplog.text)
    run.finish()
    arrived(peer)


def test_a_run_that_is_taken_over_gets_what_its_killed_attempt_left_first(script, peer, until, home):
    """Once a new attempt has started, the service refuses what an older one sends."""
    killed(script, peer, until, home)
    tachograph.init("p", external_id="mine", run_id=None, url=peer.url, api_key="tg_x").finish()
    arrived(peer)
    places = [seen.path.rpartition("/")[2] for seen in peer.seen]
    assert max(places.index("metrics"), places.index("logs")) < places.index("start")


def test_a_journal_of_a_run_that_the_key_does_not_see_stays(script, peer, until, home, caplog):
    path = killed(script, peer, until, home)
    peer.answer = lambda seen: (404, {"title": "Not Found", "status": 404})
    assert tachograph.sync(url=peer.url, api_key="tg_other").skipped == [path]
    assert "does not see its run" in caplog.text
    assert path.exists()


def test_a_disk_that_is_full_costs_nothing_while_memory_lasts(peer, tmp_path, caplog):
    """The journal's place is a file, so nothing can be written there."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "spool").write_text("")
    with tachograph.init("p", url=peer.url, api_key="tg_x") as run:
        for number in range(100):
            run.log({"x": float(number)}, step=number)
    assert run.delivery.complete
    assert peer.points() == {"x": [(number, float(number)) for number in range(100)]}
    assert caplog.text.count("cannot write to disk") == 1
