"""What neptune-exporter wrote, as an input: Parquet files by project and run, and the files beside them.

Single values become the configuration, float series metrics, the output of a run's processes log lines, and files,
those of series and sets too, artifacts; histograms and other series of texts are left out, and said to be. Steps there
may have fractions, ours have none: a multiplier makes them whole. A value that is not there belongs to another run:
runs are exported together, in tables with a row for each and a column for what any has.

Source: neptune-ai/neptune-exporter, storage/parquet_writer.py, exporters/neptune{2,3}.py, export_manager.py.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from events import codec
from events.cloudevents import finite
from events.ids import derived
from events.run_events import RunCompleted, RunCreated, RunFailed, RunImported
from events.telemetry import STREAMS, LogColumns
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
from service.ingest.batches import MAX_LINE_CHARACTERS
from service.problems import Invalid

PART: Final = re.compile(r"(.+)_part_(\d+)\.parquet(\.tmp)?")
"""A part is there under its name once its run was exported whole, part 0 last."""
COLUMNS: Final = (
    "project_id",
    "run_id",
    "attribute_path",
    "attribute_type",
    "step",
    "timestamp",
    "int_value",
    "float_value",
    "string_value",
    "bool_value",
    "datetime_value",
    "string_set_value",
    "file_value",
)
ROWS: Final = 16_384
LINES: Final = 500
_SINGLE: Final = ("int", "float", "string", "bool", "datetime", "string_set")
_FILES: Final = ("file", "file_series", "file_set", "artifact")
_OUTPUT: Final = re.compile(r"monitoring/.*(stdout|stderr)")


class Scanned(msgspec.Struct):
    """What a pass over a run's rows found."""

    run_id: str = ""
    project: str = ""
    values: dict[str, Any] = {}
    files: dict[str, str] = {}
    """By name, where it lies."""
    first: datetime | None = None
    latest: datetime | None = None
    left_out: Counter[str] = msgspec.field(default_factory=Counter)


class Neptune:
    """A directory that neptune-exporter wrote: its `data`, or what that lies in. Raises `Unreadable`."""

    system = "neptune"

    def __init__(self, directory: Path, *, multiplier: int = 1) -> None:
        data = directory / "data" if (directory / "data").is_dir() else directory
        self._files = data.parent / "files"
        self._multiplier = multiplier
        parts: dict[tuple[Path, str], list[tuple[int, Path]]] = {}
        for path in sorted(data.glob("*/*.parquet*")):
            named = PART.fullmatch(path.name)
            if named:
                known = parts.setdefault((path.parent, named[1]), [])
                if named[3] is None:
                    known.append((int(named[2]), path))
        if not parts:
            raise Unreadable(f"{directory} has no files of neptune-exporter (<project>/<run>_part_0.parquet)")
        self._runs = {key: dict(sorted(numbered)) for key, numbered in parts.items()}
        self.expected = len(self._runs)

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs by project and name."""
        for (_, name), parts in self._runs.items():
            try:
                yield self._run(_whole(parts))
            except (Unreadable, Invalid, OSError, ValueError, pa.ArrowException) as error:
                yield Refused(name, name, said(error))

    def _run(self, parts: list[Path]) -> Incoming:
        digest, scanned = hashlib.sha256(), Scanned()
        for path in parts:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            for row in _rows(path):
                self._scan(row, scanned)
        values = scanned.values
        if str(values.get("sys/state", "")).lower() in {"active", "running"}:
            raise Unreadable("it was active when it was exported; export it again when it has ended")
        failed = values.get("sys/failed") is True
        end: End = RunFailed(epoch=1, cause=Cause.EXCEPTION) if failed else RunCompleted(epoch=1)
        external = re.sub(r"[\x00-\x1f\x7f/]", "_", scanned.run_id)[:250]
        created = RunCreated(
            name=str(values.get("sys/name") or scanned.run_id)[:250].strip(),
            session_id="",
            mode=Mode.TRACKED,
            external_id=external,
            tags=(self.system, *_tags(values)),
            notes=str(values.get("sys/description") or ""),
            config={name: _plain(value) for name, value in values.items() if not name.startswith("sys/")},
        )
        check_described(created)
        at = _moment(values.get("sys/creation_time")) or scanned.first
        ended = max((one for one in (scanned.latest, at) if one is not None), default=None)
        about = {name: _plain(value) for name, value in values.items() if name.startswith("sys/")}
        left_out = [f"{kind}: {count} values" for kind, count in sorted(scanned.left_out.items())]
        origin = Origin(system=self.system, run=scanned.run_id, project=scanned.project, sha256=digest.hexdigest())
        return Incoming(
            run_id=derived("neptune", scanned.project, scanned.run_id),
            imported=RunImported(
                origin=origin,
                created=created,
                summary={self.system: about},
                created_at=at,
                started_at=at,
                ended_at=ended,
            ),
            end=end,
            batches=partial(self._batches, parts, at),
            files=list(self._saved(parts[0].parent.name, scanned, left_out)),
            left_out=left_out,
        )

    def _scan(self, row: dict[str, Any], scanned: Scanned) -> None:
        ids = (row["project_id"], row["run_id"])
        if scanned.run_id and ids != (scanned.project, scanned.run_id):
            raise Unreadable("a file holds rows of several runs")
        scanned.project, scanned.run_id = ids
        name, kind = row["attribute_path"], row["attribute_type"]
        if row["timestamp"] is not None:
            at = row["timestamp"].astimezone(UTC)
            scanned.first = min(scanned.first or at, at)
            scanned.latest = max(scanned.latest or at, at)
        if kind in _SINGLE:
            if (value := row[f"{kind}_value"]) is not None:
                scanned.values[name] = value
        elif kind in _FILES:
            if row["file_value"]:
                below = row["file_value"]["path"]
                scanned.files[_file_name(name, kind, row["step"], below)] = below
        elif kind == "float_series" and row["float_value"] is None:
            scanned.left_out["float_series without a number"] += 1
        elif kind == "float_series" and takes_metric(name):
            self._step(row["step"])
        elif not (kind == "string_series" and _OUTPUT.fullmatch(name)):
            scanned.left_out[kind] += 1

    def _step(self, step: Decimal | None) -> int:
        """Return a step as ours. Raises `Unreadable` for one that stays a fraction."""
        scaled = (step or 0) * self._multiplier
        if scaled != int(scaled):
            raise Unreadable(f"step {step} is no whole number; give --step-multiplier, such as 1000")
        return int(scaled)

    def _batches(self, parts: list[Path], at: datetime | None) -> Iterator[Batch]:
        points, lines = Points("neptune"), _Lines()
        latest = at or datetime.fromtimestamp(0, UTC)
        for path in parts:
            for row in _rows(path):
                name, kind = row["attribute_path"], row["attribute_type"]
                latest = latest if row["timestamp"] is None else row["timestamp"].astimezone(UTC)
                time_us = codec.microseconds(latest)
                if kind == "float_series" and row["float_value"] is not None and takes_metric(name):
                    yield from map(checked, points.add(name, self._step(row["step"]), time_us, row["float_value"]))
                elif kind == "string_series" and (output := _OUTPUT.fullmatch(name)):
                    yield from map(checked, lines.add(output[1], time_us, row["string_value"] or ""))
        yield from map(checked, points.rest())
        yield from map(checked, lines.rest())

    def _saved(self, project: str, scanned: Scanned, left_out: list[str]) -> Iterator[IncomingFile]:
        """Yield the files that lie below `files/<project>`, or, as once was, below `files`."""
        root = self._files.resolve()
        for name, below in scanned.files.items():
            places = [(root / above / below).resolve() for above in (project, "")]
            place = next((one for one in places if one.is_relative_to(root) and one.exists()), None)
            if place is None:
                left_out.append(f"file {name!r}: it is not at {below!r} in {self._files.name}/{project}/")
                continue
            found = {name: place}
            if place.is_dir():
                inside = (one for one in sorted(place.rglob("*")) if one.is_file() and one == one.resolve())
                found = {f"{name}/{one.relative_to(place).as_posix()}": one for one in inside}
            for each, path in found.items():
                try:
                    yield IncomingFile(
                        name=clean_name(each), kind="file", bytes=path.stat().st_size, read=partial(chunks, path)
                    )
                except Invalid as error:
                    left_out.append(f"file {each!r}: {error}")


class _Lines:
    """Lines gathered into batches of a sender of their own."""

    def __init__(self) -> None:
        self._held: list[tuple[int, int, str]] = []
        self._seq = 0

    def add(self, stream: str, time_us: int, text: str) -> Iterator[Batch]:
        self._held.append((time_us, STREAMS.index(stream), text[:MAX_LINE_CHARACTERS]))
        if len(self._held) >= LINES or sum(len(one[2]) for one in self._held[-8:]) > MAX_LINE_CHARACTERS:
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        if not self._held:
            return
        self._seq += 1
        times, streams, texts = zip(*self._held, strict=True)
        self._held = []
        columns = LogColumns(time_us=np.array(times, "<i8").tobytes(), stream=bytes(streams), text=texts)
        received_at = codec.from_microseconds(max(times))
        yield Batch(1, "neptune/output", self._seq, codec.LOGS, received_at, [columns])


def _whole(parts: Mapping[int, Path]) -> list[Path]:
    """Return a run's parts in order. Raises `Unreadable` where one is missing."""
    if 0 not in parts:
        raise Unreadable("its part 0 is missing, so its export was not finished; export it again")
    missing = next((number for number in range(len(parts)) if number not in parts), None)
    if missing is not None:
        raise Unreadable(f"its part {missing} is missing, and there are parts up to {max(parts)}; export it again")
    return list(parts.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            if missing := set(COLUMNS) - set(parquet.schema_arrow.names):
                raise Unreadable(f"{path.name} has no column {min(missing)!r}")
            for batch in parquet.iter_batches(batch_size=ROWS, columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise Unreadable(f"{path.name} cannot be read: {said(error)}") from error


def _file_name(name: str, kind: str, step: Decimal | None, below: str) -> str:
    """Return what a file is called here: that of a series by its step, an artifact's list of files by its own name."""
    match kind:
        case "file_series":
            return f"{name}/{(step or Decimal(0)).normalize():f}{PurePosixPath(below).suffix}"
        case "artifact":
            return f"{name}/{PurePosixPath(below).name}"
        case _:
            return name


def _tags(values: dict[str, Any]) -> list[str]:
    found = [*(values.get("sys/tags") or ()), *(values.get("sys/group_tags") or ())]
    return [tag for tag in dict.fromkeys(map(str, found)) if 0 < len(tag) <= 128 and tag.isprintable()][:99]


def _moment(value: Any) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case list():
            return sorted(map(str, value))
        case float():
            return finite(value)
        case _:
            return value
