"""MLflow's file store (`mlruns/`) as an input: a directory for each experiment, and one for each run in it.

Parameters become the configuration, numbers where that loses nothing; tags stand as `key=value` where they fit, and all
of them below `mlflow` in the summary. The run's id and its artifacts, where they lie in the store, come too.
Source: mlflow/store/tracking/file_store.py.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import yaml

from events import codec
from events.ids import derived
from events.run_events import RunCompleted, RunCreated, RunFailed, RunImported, RunKilled
from events.types import Cause, Mode, Origin
from service.artifact_names import clean_name
from service.imports.described import check_described
from service.imports.files import chunks
from service.imports.incoming import (
    Batch,
    End,
    Incoming,
    IncomingFile,
    Refused,
    Unreadable,
    checked,
    said,
    takes_metric,
)
from service.imports.points import Points
from service.problems import Invalid

META: Final = "meta.yaml"
MAX_META_BYTES: Final = 64 << 10
MAX_TEXT_BYTES: Final = 64 << 10
MAX_LINE_BYTES: Final = 1 << 10
MAX_TAGS: Final = 100
MAX_TAG_CHARACTERS: Final = 128
_STATUS: Final = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_ENDS: Final[dict[str, Callable[[], End]]] = {
    "FINISHED": lambda: RunCompleted(epoch=1),
    "FAILED": lambda: RunFailed(epoch=1, cause=Cause.EXCEPTION),
    "KILLED": lambda: RunKilled(epoch=1, cause=Cause.KILLED_BY_USER),
}


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

    system = "mlflow"

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
        if meta.lifecycle_stage != "active":
            raise Unreadable(f"it is {meta.lifecycle_stage} in MLflow")
        if status not in _ENDS:
            raise Unreadable(f"it is {status} in MLflow; import it when it has ended")
        digest = hashlib.sha256(msgspec.json.encode(meta))
        params, tags = _texts(directory / "params", digest), _texts(directory / "tags", digest)
        left_out: list[str] = []
        metrics = dict(_metrics(directory / "metrics", digest, left_out))
        config: dict[str, Any] = {name: as_number(text) for name, text in params.items()}
        own = [f"{name}={text}" for name, text in tags.items() if not name.startswith("mlflow.")]
        fitting = tuple(tag for tag in own if len(tag) <= MAX_TAG_CHARACTERS and tag.isprintable())[: MAX_TAGS - 1]
        created = RunCreated(
            name=meta.run_name or tags.get("mlflow.runName") or meta.run_id,
            session_id="",
            mode=Mode.TRACKED,
            external_id=meta.run_id,
            tags=(self.system, *dict.fromkeys(fitting)),
            notes=tags.get("mlflow.note.content", ""),
            config=config,
        )
        check_described(created)
        at = None if meta.start_time is None else codec.from_microseconds(meta.start_time * 1_000)
        ended = at if meta.end_time is None else codec.from_microseconds(meta.end_time * 1_000)
        experiment = _experiment(directory.parent / META)
        origin = Origin(system=self.system, run=meta.run_id, project=str(meta.experiment_id), sha256=digest.hexdigest())
        about = {"experiment": experiment, "tags": tags, "user": meta.user_id, "artifacts": meta.artifact_uri}
        return Incoming(
            run_id=_id(meta.run_id),
            imported=RunImported(
                origin=origin,
                created=created,
                summary={self.system: {name: value for name, value in about.items() if value}},
                created_at=at,
                started_at=at,
                ended_at=ended,
            ),
            end=_ENDS[status](),
            batches=partial(_batches, metrics),
            files=list(_files(directory / "artifacts", left_out)),
            left_out=left_out,
        )


def _id(run_id: str) -> UUID:
    try:
        return UUID(run_id)
    except ValueError:
        return derived("mlflow", run_id)


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
                if abs(step) >= 1 << 63 or abs(at) >= 1 << 62:
                    raise ValueError  # noqa: TRY301 (one refusal for all)
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


def as_number(text: str) -> int | float | str:
    """Return a parameter as a number where that says exactly the same."""
    try:
        whole = int(text)
        if str(whole) == text and abs(whole) < 1 << 63:
            return whole
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and repr(number) == text else text
