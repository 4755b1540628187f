"""TensorBoard's log directory as an input: each directory with event files is a run.

Scalars become metrics, hyperparameters the configuration; images, audio, histograms, texts and graphs are left out, and
said to be. TensorBoard does not say how a run ended: unless its session says that it failed, it is taken for completed.
A last record that was never finished is left out as well; damage elsewhere refuses the run.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from events import codec
from events.ids import derived
from events.run_events import RunCompleted, RunCreated, RunFailed, RunImported
from events.types import Cause, Mode, Origin
from service.imports.described import check_described
from service.imports.incoming import Batch, End, Incoming, Refused, Unreadable, checked, said, takes_metric
from service.imports.points import Points
from service.imports.summaries import HPARAMS, failed, hyperparameters
from service.imports.summaries import said as event_of
from service.imports.tfrecord import BadRecord, Records
from service.problems import Invalid

PATTERN: Final = "*tfevents*"
MAX_TAGS: Final = 100_000


class Scanned(msgspec.Struct):
    """What a pass over a run's files found."""

    first: float | None = None
    latest: float = 0.0
    config: dict[str, Any] = {}
    failed: bool = False
    tags: set[str] = set()
    left_out: Counter[str] = msgspec.field(default_factory=Counter)
    cut: list[str] = []


class TensorBoard:
    """A directory of TensorBoard's. Raises `Unreadable` where it has no event files."""

    system = "tensorboard"

    def __init__(self, directory: Path) -> None:
        found: dict[Path, list[Path]] = {}
        for file in sorted(directory.rglob(PATTERN)):
            if file.is_file() and file.resolve().is_relative_to(directory.resolve()):
                found.setdefault(file.parent, []).append(file)
        if not found:
            raise Unreadable(f"{directory} has no event files ({PATTERN})")
        self._root = directory.resolve()
        self._directories = found
        self.expected = len(found)

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs by their directories."""
        for directory, files in self._directories.items():
            below = directory.resolve().relative_to(self._root)
            name = "/".join((self._root.name, *below.parts)) or "tensorboard"
            try:
                yield self._run(name, files)
            except (Unreadable, Invalid, BadRecord, OSError) as error:
                yield Refused(name, name, said(error))

    def _run(self, name: str, files: list[Path]) -> Incoming:
        scanned = Scanned()
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as opened:
                digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
            _scan(file, scanned)
        if scanned.first is None:
            raise Unreadable("its event files say nothing")
        end: End = RunCompleted(epoch=1)
        if scanned.failed:
            end = RunFailed(epoch=1, cause=Cause.EXCEPTION)
        at, ended = _time(scanned.first), _time(scanned.latest)
        created = RunCreated(name=name, session_id="", mode=Mode.TRACKED, tags=(self.system,), config=scanned.config)
        check_described(created)
        origin = Origin(system=self.system, run=name, sha256=digest.hexdigest())
        return Incoming(
            run_id=derived("tensorboard", name, repr(scanned.first)),
            imported=RunImported(origin=origin, created=created, created_at=at, started_at=at, ended_at=ended),
            end=end,
            batches=_batches(files, scanned.tags),
            left_out=[*scanned.cut, *(f"{kind}: {count} values" for kind, count in sorted(scanned.left_out.items()))],
        )


def _scan(file: Path, scanned: Scanned) -> None:
    """Read a file to its end, checking every record. Raises `BadRecord`, `Unreadable`."""
    records, plugins = Records(file), dict[str, str]()
    try:
        for record in records:
            if not record:
                scanned.left_out["records over 64 KiB"] += 1
                continue
            event = event_of(record, plugins)
            scanned.first = event.wall_time if scanned.first is None else min(scanned.first, event.wall_time)
            scanned.latest = max(scanned.latest, event.wall_time)
            for value in event.values:
                if value.number is not None and takes_metric(value.tag):
                    scanned.tags.add(value.tag)
                elif value.instead == HPARAMS:
                    scanned.config |= hyperparameters(value.content)
                    scanned.failed |= failed(value.content)
                else:
                    unnamed = value.number is not None
                    scanned.left_out[
                        "scalars whose names cannot be taken" if unnamed else value.instead or "other"
                    ] += 1
            if len(scanned.tags) > MAX_TAGS:
                raise Unreadable(f"it has over {MAX_TAGS} tags")
    except BadRecord as error:
        raise BadRecord(f"{file.name}: {error}") from error
    if records.left:
        scanned.cut.append(f"{file.name}: its last {records.left} bytes, a record that was never finished")


def _batches(files: list[Path], tags: set[str]) -> Callable[[], Iterator[Batch]]:
    def batches() -> Iterator[Batch]:
        points = Points("tensorboard")
        for file in files:
            plugins: dict[str, str] = {}
            for record in Records(file, check=False):
                event = event_of(record, plugins)
                for value in event.values:
                    if value.number is not None and value.tag in tags:
                        time_us = codec.microseconds(_time(event.wall_time))
                        yield from map(checked, points.add(value.tag, event.step, time_us, value.number))
        yield from map(checked, points.rest())

    return batches


def _time(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadRecord(f"{seconds} is no time in seconds since 1970") from None
