"""Unpack a code snapshot (zip) into a directory: nothing lands outside of it, and no bomb fills the disk."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

MAX_ENTRIES: Final = 100_000
MAX_BYTES: Final = 10 << 30
CHUNK_BYTES: Final = 1 << 20


class BadArchive(Exception):
    """The archive is none, or holds what must not be unpacked; the message says which entry and why."""


def unpack(archive: Path, into: Path, going_on: Callable[[], None]) -> int:
    """Unpack regular files and directories; returns how many files. `going_on` is asked all the time and may raise.

    Raises `BadArchive` before anything is written where an entry leaves the directory, is a link or a device, or the
    whole is over `MAX_ENTRIES` or `MAX_BYTES`; sizes that an entry lies about are found out while it is unpacked.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            _check(entries)
            files = [entry for entry in entries if not entry.is_dir()]
            for entry in entries:
                target = into / _inner(entry.filename)
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    _write(opened, entry, target, going_on)
            return len(files)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadArchive(f"the code snapshot cannot be read: {error}") from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise BadArchive(f"the code snapshot has {len(entries)} entries, more than {MAX_ENTRIES}")
    total = sum(entry.file_size for entry in entries)
    if total > MAX_BYTES:
        raise BadArchive(f"the code snapshot unpacks to {total} bytes, more than {MAX_BYTES}")
    for entry in entries:
        _inner(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise BadArchive(f"{entry.filename!r} in the code snapshot is no regular file")


def _inner(name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else "") or "\0" in name:
        raise BadArchive(f"{name!r} in the code snapshot leaves its directory")
    return Path(*path.parts)


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, going_on: Callable[[], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    room = entry.file_size
    with opened.open(entry) as source, target.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            going_on()
            room -= len(chunk)
            if room < 0:
                raise BadArchive(f"{entry.filename!r} in the code snapshot is larger than it says")
            file.write(chunk)
    mode = (entry.external_attr >> 16) & 0o777
    if mode:
        target.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
