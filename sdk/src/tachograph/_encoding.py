"""Columns to request bodies, and values of any library to plain JSON. Pure."""

import dataclasses
import enum
import math
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from tachograph._types import Json

MAX_POINTS: Final = 10_000
"""Points of one batch; the service takes 100,000, and a small batch is resent cheaply."""

MAX_TEXT: Final = 256 * 1024
"""Characters of one batch of log lines."""

MAX_LINES: Final = 5_000
"""Lines of one batch; the service takes 10,000."""

_PAUSE_POINTS: Final = 2_000
_encode = msgspec.msgpack.Encoder().encode


class Rows:
    """Points that were logged with the same names and stage, as columns.

    `values` is row-major, float64[rows * len(names)]; `steps` and `times` (microseconds) are int64[rows].
    """

    __slots__ = ("names", "stage", "steps", "times", "values")

    def __init__(self, names: tuple[str, ...], stage: str | None) -> None:
        self.names = names
        self.stage = stage
        self.values = array("d")
        self.steps = array("q")
        self.times = array("q")


class Line(msgspec.Struct, frozen=True):
    """One log line."""

    time_us: int
    stream: str
    text: str


class Series(msgspec.Struct, omit_defaults=True):
    """One metric's columns, each encoded already."""

    step: msgspec.Raw
    value: msgspec.Raw
    time_us: msgspec.Raw
    stage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class MetricsBody(msgspec.Struct, omit_defaults=True):
    """The body of POST /runs/{run}/metrics."""

    epoch: int
    source: str
    seq: int
    series: dict[str, Series]
    stage: str | None = None


class LogsBody(msgspec.Struct):
    """The body of POST /runs/{run}/logs."""

    epoch: int
    source: str
    seq: int
    lines: Sequence[Line]


def finite_or_named(values: Sequence[float]) -> Sequence[float | str]:
    """Return the values as JSON can hold them: NaN and infinities become their names."""
    return [value if math.isfinite(value) else _name(value) for value in values]


def numbers(values: Iterable[Any]) -> list[float]:
    """Return a column of an answer as numbers, `finite_or_named` undone."""
    return [float(value) for value in values]


def metric_bodies(chunk: Iterable[Rows], *, pause: bool = True) -> Iterator[tuple[int, dict[str, Series], str | None]]:
    """Yield (points, series, stage) of one request body after the other, at most `MAX_POINTS` points each.

    With `pause`, lets other threads run in between: encoding holds the interpreter's lock.
    """
    rows = [group for group in chunk if group.times]
    stages = {group.stage for group in rows}
    uniform = next(iter(stages)) if len(stages) == 1 else None
    points = since_pause = 0
    series: dict[str, Series] = {}
    for name, columns in _columns(rows, with_stage=len(stages) > 1):
        count = columns[0]
        if points and points + count > MAX_POINTS:
            yield points, series, uniform
            points, series = 0, {}
        series[name] = columns[1]
        points += count
        since_pause += count
        if pause and since_pause >= _PAUSE_POINTS:
            since_pause = 0
            time.sleep(0)
    if points:
        yield points, series, uniform


def whole(chunk: Iterable[Rows]) -> list[Rows]:
    """Return what has points, without a row that was cut short by a signal handler."""
    for group in chunk:
        del group.values[len(group.times) * len(group.names) :], group.steps[len(group.times) :]
    return [group for group in chunk if group.times]


def joined(chunk: Iterable[Rows]) -> list[Rows]:
    """Return one group of rows for each set of names and stage; those that come first are changed."""
    found: dict[tuple[tuple[str, ...], str | None], Rows] = {}
    for group in chunk:
        first = found.setdefault((group.names, group.stage), group)
        if first is not group:
            first.values.extend(group.values)
            first.steps.extend(group.steps)
            first.times.extend(group.times)
    return list(found.values())


def line_batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Yield the lines in batches of about `MAX_TEXT` characters, order kept."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (size + len(line.text) > MAX_TEXT or len(batch) >= MAX_LINES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.text)
    if batch:
        yield batch


def encode(body: MetricsBody | LogsBody) -> bytes:
    """Return the body as MessagePack: NaN and infinities as they are, and half the work of JSON."""
    return _encode(body)


def plain(value: Any, where: str) -> Any:
    """Return `value` as JSON can hold it; raises `TypeError` naming the place of what it cannot.

    Numbers and small arrays of other libraries become numbers and lists, NaN and infinities their names.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, where)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "tolist"):
        return plain(value.tolist(), where)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{where} is a {type(value).__qualname__}, which JSON cannot hold")


def merge(target: Json, patch: Mapping[str, Any], *, keep_null: bool) -> None:
    """Apply a merge patch (RFC 7396) to `target`; `keep_null` makes the result a patch again."""
    for key, value in patch.items():
        if isinstance(value, Mapping):
            below = target.get(key)
            if not isinstance(below, dict):
                below = target[key] = {}
            merge(below, value, keep_null=keep_null)
        elif value is None and not keep_null:
            target.pop(key, None)
        else:
            target[key] = value


def add_patch(patches: list[Json], patch: Mapping[str, Any]) -> None:
    """Merge `patch` into the last of the patches, or add it where a single one cannot do what both do."""
    if not composable(patches[-1], patch):
        patches.append({})
    merge(patches[-1], patch, keep_null=True)


def composable(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether one merge patch can do what the two do in turn: not where `second` goes into what `first` set."""
    for key, value in second.items():
        if isinstance(value, Mapping) and key in first:
            below = first[key]
            if not isinstance(below, Mapping) or not composable(below, value):
                return False
    return True


def _columns(rows: list[Rows], *, with_stage: bool) -> Iterator[tuple[str, tuple[int, Series]]]:
    """Yield each name with its number of points and its columns, the points in the order of their time."""
    owners: dict[str, list[tuple[Rows, int]]] = {}
    for group in rows:
        for index, name in enumerate(group.names):
            owners.setdefault(name, []).append((group, index))
    shared: dict[int, tuple[msgspec.Raw, msgspec.Raw]] = {}
    for name, places in owners.items():
        if len(places) > 1:
            yield name, _merged(places, with_stage=with_stage)
            continue
        group, index = places[0]
        if id(group) not in shared:
            shared[id(group)] = (_raw(group.steps.tolist()), _raw(group.times.tolist()))
        step, time_us = shared[id(group)]
        values = group.values[index :: len(group.names)].tolist()
        series = Series(step, _raw(values), time_us)
        if with_stage:
            series.stage = _raw([group.stage] * len(values))
        yield name, (len(values), series)


def _merged(places: list[tuple[Rows, int]], *, with_stage: bool) -> tuple[int, Series]:
    points = [
        (time_us, step, value, group.stage)
        for group, index in places
        for time_us, step, value in zip(group.times, group.steps, group.values[index :: len(group.names)], strict=True)
    ]
    points.sort(key=lambda point: point[0])
    series = Series(
        _raw([point[1] for point in points]),
        _raw([point[2] for point in points]),
        _raw([point[0] for point in points]),
    )
    if with_stage:
        series.stage = _raw([point[3] for point in points])
    return len(points), series


def _raw(column: Sequence[Any]) -> msgspec.Raw:
    return msgspec.Raw(_encode(column))


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r}, which is not a string")
    return key
