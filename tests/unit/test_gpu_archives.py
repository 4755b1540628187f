"""Code snapshots are unpacked: all of them, and nothing outside of where they belong."""

import stat
import zipfile
from pathlib import Path

import pytest

from workers.gpu import archives
from workers.gpu.archives import BadArchive, unpack


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
