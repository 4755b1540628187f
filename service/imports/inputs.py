"""Which input a path is."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from service.imports.archive import Archive
from service.imports.incoming import Input, Unreadable

SYSTEMS: Final = ("tachograph",)

Progress = Callable[[int, int], None]


class Source(msgspec.Struct, frozen=True):
    """An input that was found good, and the name of its project, if it has one."""

    input: Input
    project: str | None = None


def opened(path: Path, system: str | None, progress: Progress) -> Source:
    """Return what is at a path, checked as a whole. Raises `Unreadable`."""
    if not path.exists():
        raise Unreadable(f"there is no {path}")
    match system or _looks_like(path):
        case "tachograph":
            archive = Archive(path)
            archive.verify(progress)
            return Source(archive, archive.manifest.project)
        case _:
            raise Unreadable(f"{path} looks like nothing that can be imported; say what it is with --from")


def _looks_like(path: Path) -> str | None:
    if path.is_file() and path.suffix == ".zip":
        return "tachograph"
    return None
