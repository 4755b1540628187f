"""Which input a path is."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from service.imports.archive import Archive
from service.imports.incoming import Input, Unreadable
from service.imports.mlflow import META, MLflow
from service.imports.neptune import Neptune
from service.imports.tensorboard import PATTERN, TensorBoard

SYSTEMS: Final = ("tachograph", "tensorboard", "mlflow", "neptune")

Progress = Callable[[int, int], None]


class Source(msgspec.Struct, frozen=True):
    """An input that was found good, and the name of its project, if it has one."""

    input: Input
    project: str | None = None


def opened(path: Path, system: str | None, progress: Progress, *, multiplier: int = 1) -> Source:
    """Return what is at a path, checked as a whole; `multiplier` makes Neptune's steps whole. Raises `Unreadable`."""
    if not path.exists():
        raise Unreadable(f"there is no {path}")
    match system or _looks_like(path):
        case "tachograph":
            archive = Archive(path)
            archive.verify(progress)
            return Source(archive, archive.manifest.project)
        case "tensorboard":
            return Source(TensorBoard(path))
        case "mlflow":
            return Source(MLflow(path))
        case "neptune":
            return Source(Neptune(path, multiplier=multiplier))
        case _:
            raise Unreadable(f"{path} looks like nothing that can be imported; say what it is with --from")


def _looks_like(path: Path) -> str | None:
    if path.is_file() and path.suffix == ".zip":
        return "tachograph"
    if path.is_dir() and next(path.rglob(PATTERN), None) is not None:
        return "tensorboard"
    if path.is_dir() and any(next(path.glob(f"{depth}{META}"), None) for depth in ("*/*/", "*/", "")):
        return "mlflow"
    if path.is_dir() and any(next(path.glob(f"{below}*/*_part_0.parquet"), None) for below in ("", "data/")):
        return "neptune"
    return None
