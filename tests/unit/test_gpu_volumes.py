"""Volumes in, outputs out: real files, and nothing outside of where they belong."""

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import tachograph
from events.settings import SettingsError
from workers.gpu.records import RunDirectory, Volume
from workers.gpu.settings import PREPARATION_SECONDS, STOPPING_SECONDS, from_environment
from workers.gpu.volumes import Interrupted, Patience, Places, VolumeFailed


class Here:
    """A run's directory, a volume of the worker, and a client that reaches nobody."""

    def __init__(self, path: Path) -> None:
        self.volume = path / "data"
        self.volume.mkdir()
        self.directory = RunDirectory(path / "run")
        self.directory.create()
        client = tachograph.Client("http://127.0.0.1:9", "tg_nobody", retry_seconds=0.0)
        self.places = Places(self.directory, "r", client, {"data": self.volume})
        self.patience = Patience(60.0, "A_SETTING")

    def bring(self, place: str, path: str) -> str:
        return self.places.bring(Volume(place, path), self.patience)

    def take(self, path: str, place: str) -> str:
        return self.places.take(Volume(place, path), self.patience)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_volume_is_brought_in_as_a_link_and_that_again_is_the_same(here: Here) -> None:
    (here.volume / "mnist").mkdir()
    (here.volume / "mnist" / "train.bin").write_bytes(b"7")
    for _ in range(2):
        assert here.bring("volume:data/mnist", "inputs/mnist") == "volume:data/mnist as inputs/mnist"
    assert (here.directory.work / "inputs" / "mnist" / "train.bin").read_bytes() == b"7"


def test_what_is_taken_out_is_copied_and_what_was_brought_in_is_not(here: Here) -> None:
    here.bring("volume:data", "inputs")
    out = here.directory.work / "out"
    (out / "deep").mkdir(parents=True)
    (out / "model.bin").write_bytes(b"model")
    (out / "deep" / "log").write_bytes(b"log")
    (out / "inputs").symlink_to(here.volume)
    assert here.take("out", "volume:data/results") == "2 files of out to volume:data/results"
    assert here.take("out/model.bin", "volume:data/best.bin") == "1 files of out/model.bin to volume:data/best.bin"
    found = sorted(str(path.relative_to(here.volume)) for path in here.volume.rglob("*") if path.is_file())
    assert found == ["best.bin", "results/deep/log", "results/model.bin"]


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda here: here.bring("volume:other", "x"), "no volume 'other'; it offers data"),
        (lambda here: here.bring("volume:data/missing", "x"), "is not there"),
        (lambda here: here.bring("volume:data/../..", "x"), "leaves its volume"),
        (lambda here: here.bring("volume:data/way-out", "x"), "leaves its volume"),
        (lambda here: here.bring("volume:data", ""), "File exists"),
        (lambda here: here.take("missing", "volume:data/x"), "is not there to be taken"),
    ],
)
def test_what_cannot_be_had_is_said(here: Here, act: Callable[[Here], str], why: str) -> None:
    (here.volume / "way-out").symlink_to("/etc")
    with pytest.raises(VolumeFailed, match=why):
        act(here)


def test_copying_gives_up_when_it_is_told_and_leaves_no_half_file(here: Here) -> None:
    with (here.directory.work / "large").open("wb") as file:
        file.truncate(1 << 40)
    here.patience = Patience(0.05, "A_SETTING")
    with pytest.raises(VolumeFailed, match=r"large to volume:data/large: not done within 0\.05 s \(A_SETTING\)"):
        here.take("large", "volume:data/large")
    assert list(here.volume.iterdir()) == []
    here.patience = Patience(60.0, "A_SETTING")
    here.patience.give_up()
    with pytest.raises(Interrupted, match="is to end"):
        here.take("large", "volume:data/large")


AWAY: list[Callable[[Here], str]] = [
    lambda here: here.bring("artifact:run/model", "x"),
    lambda here: here.take("result", "artifact:result"),
    lambda here: here.places.fetch_code("artifact:run/code.zip", here.patience),
]
"""What needs the server."""


@pytest.mark.parametrize("act", AWAY)
def test_a_server_that_stays_away_is_waited_for_as_long_as_was_said(here: Here, act: Callable[[Here], str]) -> None:
    (here.directory.work / "result").write_bytes(b"7")
    here.patience = Patience(0.7, "A_SETTING")
    with pytest.raises(VolumeFailed, match=r"not done within 0\.7 s \(A_SETTING\); at last: .*refused") as raised:
        act(here)
    assert "artifact:" in str(raised.value)
    assert sorted(path.name for path in here.directory.path.rglob("*")) == ["result", "work"]


@pytest.mark.parametrize("act", AWAY)
def test_waiting_for_the_server_ends_when_the_run_is_to_end(here: Here, act: Callable[[Here], str]) -> None:
    (here.directory.work / "result").write_bytes(b"7")
    ends: list[type[BaseException]] = []

    def wait() -> None:
        try:
            act(here)
        except Interrupted as interrupted:
            ends.append(type(interrupted))

    waiting = threading.Thread(target=wait)
    here.patience = Patience(3_600.0, "A_SETTING")
    waiting.start()
    here.patience.give_up()
    waiting.join(60)
    assert ends == [Interrupted]


def test_a_preparation_begins_with_an_empty_directory_and_leaves_alone_what_it_links_to(here: Here) -> None:
    (here.volume / "data").write_bytes(b"7")
    here.bring("volume:data", "inputs")
    (here.directory.work / ".model.half").write_bytes(b"7")
    here.places.clear()
    assert list(here.directory.work.iterdir()) == []
    assert (here.volume / "data").read_bytes() == b"7"


def test_the_worker_is_told_its_volumes_by_name() -> None:
    base = {"TACHOGRAPH_NATS_URL": "nats://127.0.0.1"}
    given = from_environment({**base, "TACHOGRAPH_WORKER_VOLUMES": "data=/data, out=/mnt/out"})
    assert given.volumes == {"data": Path("/data"), "out": Path("/mnt/out")}
    for wrong in ("data", "=/x", "a/b=/x", "data=relative"):
        with pytest.raises(SettingsError, match="TACHOGRAPH_WORKER_VOLUMES"):
            from_environment({**base, "TACHOGRAPH_WORKER_VOLUMES": wrong})
    for wrong in ("0", "-1", "soon", "inf", "nan"):
        with pytest.raises(SettingsError, match="TACHOGRAPH_WORKER_METRICS_SECONDS"):
            from_environment({**base, "TACHOGRAPH_WORKER_METRICS_SECONDS": wrong})


def test_the_worker_is_told_how_long_to_wait() -> None:
    base = {"TACHOGRAPH_NATS_URL": "nats://127.0.0.1"}
    assert (from_environment(base).preparation_seconds, from_environment(base).stopping_seconds) == (600.0, 600.0)
    given = {**base, PREPARATION_SECONDS: "900", STOPPING_SECONDS: "1.5"}
    assert from_environment(given).preparation_seconds == 900.0
    assert from_environment(given).stopping_seconds == 1.5
    with pytest.raises(SettingsError, match=f"{PREPARATION_SECONDS} is 'soon', not a number of seconds above 0"):
        from_environment({**base, PREPARATION_SECONDS: "soon"})


def test_a_server_that_sends_little_by_little_is_not_waited_for_beyond_the_deadline(here: Here) -> None:
    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(250):  # then it is cut, which would be said
                    if over.wait(0.02):
                        break
                    self.wfile.write(b".")

        def log_message(self, *_: object) -> None:
            pass

    over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        client = tachograph.Client(f"http://127.0.0.1:{server.server_port}", "tg_nobody")
        places = Places(here.directory, "r", client, {})
        try:
            with pytest.raises(VolumeFailed, match=r"not done within 0.2 s \(A_SETTING\)$"):
                places.fetch_code("artifact:r/code.zip", Patience(0.2, "A_SETTING"))
        finally:
            over.set()
            server.shutdown()
            serving.join()
