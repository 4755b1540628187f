"""Code and volumes in, outputs out: real files, and nothing outside of where they belong."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tachograph
from workers.gpu import archives
from workers.gpu.archives import BadArchive, unpack
from workers.gpu.records import RunDirectory, Volume
from workers.gpu.settings import SettingsError, from_environment
from workers.gpu.volumes import Interrupted, Patience, Places, VolumeFailed


def never() -> None:
    """Go on."""


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def test_a_snapshot_is_unpacked_with_its_modes(tmp_path: Path) -> None:
    script = zipfile.ZipInfo("bin/train.sh")
    script.external_attr = (stat.S_IFREG | 0o755) << 16
    archive = zipped(tmp_path / "a.zip", ("empty/", b""), (script, b"#!/bin/sh\n"), ("lib\\m.py", b"x = 1\n"))
    into = tmp_path / "work"
    into.mkdir()
    assert unpack(archive, into, never) == 2
    assert (into / "lib" / "m.py").read_text() == "x = 1\n"
    assert (into / "bin" / "train.sh").stat().st_mode & 0o777 == 0o755
    assert (into / "empty").is_dir()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("../evil", "leaves its directory"),
        ("a/../../evil", "leaves its directory"),
        ("/etc/evil", "leaves its directory"),
        ("..\\evil", "leaves its directory"),
        ("C:\\evil", "leaves its directory"),
        (link("passwd"), "no regular file"),
    ],
)
def test_an_entry_that_would_leave_the_directory_stops_everything(
    tmp_path: Path, entry: str | zipfile.ZipInfo, why: str
) -> None:
    archive = zipped(tmp_path / "a.zip", ("fine.py", b""), (entry, b"/etc/passwd"))
    into = tmp_path / "in" / "work"
    into.mkdir(parents=True)
    with pytest.raises(BadArchive, match=why):
        unpack(archive, into, never)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in", "work"]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(BadArchive, match="cannot be read"):
        unpack(tmp_path / "a.zip", tmp_path, never)


def test_an_archive_that_would_fill_the_disk_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000)
    archive = zipped(tmp_path / "a.zip", ("a", bytes(600)), ("b", bytes(600)))
    with pytest.raises(BadArchive, match="more than 1000"):
        unpack(archive, tmp_path / "work", never)
    assert not (tmp_path / "work").exists()


class Here:
    """A run's directory, a volume of the worker, and a client that reaches nobody."""

    def __init__(self, path: Path) -> None:
        self.volume = path / "data"
        self.volume.mkdir()
        self.directory = RunDirectory(path / "run")
        self.directory.create()
        client = tachograph.Client("http://127.0.0.1:9", "tg_nobody", retry_seconds=0.0)
        self.places = Places(self.directory, "r", client, {"data": self.volume})
        self.patience = Patience()

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
        (lambda here: here.bring("artifact:run/model", "x"), "artifact:run/model"),
        (lambda here: here.places.fetch_code("artifact:run/code.zip", here.patience), "artifact:run/code.zip"),
    ],
)
def test_what_cannot_be_had_is_said(here: Here, act: Callable[[Here], str], why: str) -> None:
    (here.volume / "way-out").symlink_to("/etc")
    with pytest.raises(VolumeFailed, match=why):
        act(here)


def test_copying_gives_up_when_it_is_told_and_leaves_no_half_file(here: Here) -> None:
    with (here.directory.work / "large").open("wb") as file:
        file.truncate(1 << 40)
    here.patience = Patience(0.05)
    with pytest.raises(Interrupted, match=r"not done within 0\.05 s"):
        here.take("large", "volume:data/large")
    assert list(here.volume.iterdir()) == []
    here.patience = Patience()
    here.patience.give_up()
    with pytest.raises(Interrupted, match="is to end"):
        here.take("large", "volume:data/large")


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
