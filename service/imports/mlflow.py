"""MLflow's file store (`mlruns/`) as an input: a directory for each experiment, and one for each run in it.

Source: mlflow/store/tracking/file_store.py.
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from service.artifact_names import clean_name
from service.imports.files import chunks
from service.imports.incoming import (
    Batch,
    Incoming,
    IncomingFile,
    Refused,
    Unreadable,
    checked,
    said,
    takes_metric,
)
from service.imports.mlflow_run import MAX_TEXT_BYTES, SYSTEM, Told, check_ended, check_point, incoming, linked
from service.imports.points import Points
from service.problems import Invalid

META: Final = "meta.yaml"
MAX_META_BYTES: Final = 64 << 10
MAX_LINE_BYTES: Final = 1 << 10
_STATUS: Final = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}


class Meta(msgspec.Struct, frozen=True):
    """A run's `meta.yaml`; times are milliseconds since the epoch."""

    run_id: str
    status: int
    start_time: int | None = None
    end_time: int | None = None
    run_name: str | None = None
    user_id: str | None = None
    experiment_id: str | int = ""
    lifecycle_stage: str = "active"
    artifact_uri: str = ""


class MLflow:
    """A file store, or one experiment of it. Raises `Unreadable` where it has no runs."""

    system = SYSTEM

    def __init__(self, directory: Path) -> None:
        deep = [*directory.glob(f"*/*/{META}"), *directory.glob(f"*/{META}"), directory / META]
        self._runs = sorted({file.parent for file in deep if (file.parent / "metrics").is_dir() and file.is_file()})
        if not self._runs:
            raise Unreadable(f"{directory} has no runs of MLflow's file store ({META} beside metrics/)")
        self.expected = len(self._runs)

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs by their directories."""
        for directory in self._runs:
            try:
                yield self._run(directory)
            except (Unreadable, Invalid, OSError, ValueError, yaml.YAMLError, msgspec.MsgspecError) as error:
                yield Refused(directory.name, directory.name, said(error))

    def _run(self, directory: Path) -> Incoming:
        meta = msgspec.convert(_yaml(directory / META), Meta, strict=False)
        status = _STATUS.get(meta.status, str(meta.status))
        check_ended(status, meta.lifecycle_stage, meta.run_name or "")
        digest = hashlib.sha256(msgspec.json.encode(meta))
        params, tags = _texts(directory / "params", digest), _texts(directory / "tags", digest)
        left_out = linked(*(len(list(directory.glob(f"{name}/*"))) for name in ("inputs", "outputs")))
        metrics = dict(_metrics(directory / "metrics", digest, left_out))
        told = Told(
            run_id=meta.run_id,
            name=meta.run_name or "",
            status=status,
            start_time=meta.start_time,
            end_time=meta.end_time,
            user=meta.user_id or "",
            experiment_id=str(meta.experiment_id),
            experiment=_experiment(directory.parent / META),
            artifact_uri=meta.artifact_uri,
            params=params,
            tags=tags,
        )
        return incoming(
            told,
            digest.hexdigest(),
            batches=partial(_batches, metrics),
            files=list(_files(directory / "artifacts", left_out)),
            left_out=left_out,
        )


def _yaml(path: Path) -> Any:
    if path.stat().st_size > MAX_META_BYTES:
        raise Unreadable(f"{path.name} has over {MAX_META_BYTES} bytes")
    return yaml.safe_load(path.read_text())


def _experiment(path: Path) -> str:
    if not path.is_file():
        return ""
    known = _yaml(path)
    return str(known.get("name", "")) if isinstance(known, dict) else ""


def _below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory by their names, which may have slashes in them; links are passed over."""
    for path in sorted(directory.rglob("*")):
        below = path.relative_to(directory)
        inside = (directory, *(directory / one for one in below.parents), path)
        if path.is_file() and not any(one.is_symlink() for one in inside):
            yield below.as_posix(), path


def _texts(directory: Path, digest: Any) -> dict[str, str]:
    """Return what each file below a directory says."""
    found = {}
    for name, path in _below(directory):
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise Unreadable(f"{name!r} has over {MAX_TEXT_BYTES} bytes")
        data = path.read_bytes()
        digest.update(f"{directory.name}/{name} {len(data)}\n".encode() + data)
        found[name] = data.decode()
    return found


def _metrics(directory: Path, digest: Any, left_out: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield the metrics' files, each read to its end first, so that a bad line refuses the run."""
    for name, path in _below(directory):
        count = 0
        for _, _, _ in _points(path, digest):
            count += 1
        if takes_metric(name):
            yield name, path
        else:
            left_out.append(f"metric {name!r}: its name cannot be taken, {count} points")


def _points(path: Path, digest: Any = None) -> Iterator[tuple[int, float, int]]:
    """Yield microseconds, value and step of each line. Raises `Unreadable` naming the line."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if digest is not None:
                digest.update(line)
            words = line.split()
            try:
                at, value = int(words[0]) * 1_000, float(words[1])
                step = int(words[2]) if len(words) > 2 else 0
                check_point(step, at // 1_000)
            except (ValueError, IndexError):
                raise Unreadable(f"metrics/{path.name}, line {number}: not `time value step`") from None
            yield at, value, step


def _batches(metrics: dict[str, Path]) -> Iterator[Batch]:
    points = Points("mlflow")
    for name, path in metrics.items():
        for at, value, step in _points(path):
            yield from map(checked, points.add(name, step, at, value))
    yield from map(checked, points.rest())


def _files(directory: Path, left_out: list[str]) -> Iterator[IncomingFile]:
    for name, path in _below(directory):
        try:
            yield IncomingFile(
                name=clean_name(name), kind="file", bytes=path.stat().st_size, read=partial(chunks, path)
            )
        except Invalid as error:
            left_out.append(f"artifact {name!r}: {error}")
