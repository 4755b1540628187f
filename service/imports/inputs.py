"""Which input a path is."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from projections.pack.format import Definition
from service.imports.archive import Archive
from service.imports.incoming import Input, Unreadable
from service.imports.mlflow import META, MLflow
from service.imports.mlflow_client import Client
from service.imports.mlflow_server import MLflowServer
from service.imports.neptune import Neptune
from service.imports.tensorboard import PATTERN, TensorBoard

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how much of it is, and how much there is."""


class Where(msgspec.Struct, frozen=True):
    """What to read: a path or a server's URL, and what is known of it."""

    path: str
    system: str | None = None
    experiments: Sequence[str] = ()
    """Of an MLflow server, by name or id; none are all."""
    step_multiplier: int = 1
    """Makes Neptune's steps whole."""


class Source(msgspec.Struct, frozen=True):
    """An input that was found good, and of its project, if it has one, the name and what is defined in it."""

    input: Input
    project: str | None = None
    definitions: Callable[[], Iterator[Definition]] = lambda: iter(())


def opened(where: Where, progress: Progress) -> Source:
    """Return what is there, checked as a whole. Raises `Unreadable`, and `Unreachable` for a server that is away."""
    if where.path.startswith(("http://", "https://")):
        if where.system not in {None, "mlflow"}:
            raise Unreadable("of servers, only MLflow's can be read")
        client = Client(where.path)
        return Source(MLflowServer(client, where.experiments, lambda what, count: progress(what, count, count)))
    if where.experiments:
        raise Unreadable("--experiment chooses from a server; of a file store, name the experiment's directory")
    path = Path(where.path)
    if not path.exists():
        raise Unreadable(f"there is no {path}")
    match where.system or _looks_like(path):
        case "tachograph":
            archive = Archive.at(path)
            archive.verify(partial(progress, "check"))
            return Source(archive, archive.manifest.project, archive.definitions)
        case "tensorboard":
            return Source(TensorBoard(path))
        case "mlflow":
            return Source(MLflow(path))
        case "neptune":
            return Source(Neptune(path, multiplier=where.step_multiplier))
        case _:
            raise Unreadable(f"{path} looks like nothing that can be imported; say what it is with --from")


def is_archive(where: Where) -> bool:
    """Tell whether this is an archive of ours, which a service takes as it is."""
    path = Path(where.path)
    return (where.system or _looks_like(path)) == "tachograph" and path.is_file() and not where.experiments


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
