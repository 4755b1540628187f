"""Bodies of metrics and logs as JSON or MessagePack, decoded into columns and never into points."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from struct import pack
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from events.telemetry import STREAMS, LogColumns, MetricColumns
from service.ingest import batches
from service.ingest.batches import EXACT, MAX_LINE_CHARACTERS, MAX_LINES, MAX_POINTS, Batch, Epoch, Key, Seq, Source
from service.problems import Invalid

DOCUMENTS: Final = ("application/json", "application/msgpack")
MEDIA_TYPES: Final = (
    *DOCUMENTS,
    "application/x-msgpack",
    "application/vnd.msgpack",
    "",
)
"""What these bodies are called; what is not called MessagePack is JSON."""

NonFinite = Literal["NaN", "Infinity", "-Infinity"]


class MetricSeries(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The points of one metric, column by column, all of one length; what is not finite is a word."""

    step: list[int]
    value: list[int | float | NonFinite]
    time_us: list[int] | None = None
    stage: list[str | None] | None = None


class MetricsBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A batch of metrics."""

    epoch: Epoch
    seq: Seq
    series: dict[str, MetricSeries]
    source: Source = "sdk"
    stage: str | None = None


class FloatSeries(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The same, whose values are all read as float64: most are."""

    step: list[int]
    value: list[float]
    time_us: list[int] | None = None
    stage: list[str | None] | None = None


class FloatMetricsBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The same, of such series."""

    epoch: Epoch
    seq: Seq
    series: dict[str, FloatSeries]
    source: Source = "sdk"
    stage: str | None = None


class Line(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A log line."""

    text: Annotated[str, Meta(max_length=MAX_LINE_CHARACTERS)]
    time_us: int | None = None
    stream: Literal["stdout", "stderr", "log"] = "log"


class LogsBody(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A batch of log lines."""

    epoch: Epoch
    seq: Seq
    lines: Annotated[list[Line], Meta(max_length=MAX_LINES)]
    source: Source = "sdk"


_DECODERS: Final = {
    (body, media): decoder(body)
    for body in (FloatMetricsBody, MetricsBody, LogsBody)
    for media, decoder in (("json", msgspec.json.Decoder), ("msgpack", msgspec.msgpack.Decoder))
}


def _decode(body: type[Any], raw: bytes, media_type: str) -> Any:
    media = "msgpack" if "msgpack" in media_type else "json"
    return _DECODERS[body, media].decode(raw)


def metrics(raw: bytes, media_type: str, received_us: int) -> Batch:
    """Decode a metrics body. Raises `Invalid`, or msgspec's errors, naming the JSON path and the limit."""
    body: FloatMetricsBody | MetricsBody
    try:
        body = _decode(FloatMetricsBody, raw, media_type)
    except msgspec.ValidationError:
        body = _decode(MetricsBody, raw, media_type)
    found = _gathered(body.series, received_us)
    batches.check_count(len(found.step), "point", MAX_POINTS, "$.series")
    value = _numbers(found.value)
    if value is None or _rounds(value):
        _check_integers(body if isinstance(body, MetricsBody) else _decode(MetricsBody, raw, media_type))
        assert value is not None
    staged = found.staged or body.stage is not None
    stages, stage = _stages(body.stage, body.series.values()) if staged else ((), None)
    columns = MetricColumns(
        names=tuple(body.series),
        counts=tuple(found.counts),
        step=_integers(found.step, "step", body.series),
        value=value,
        time_us=_integers(found.time_us, "time_us", body.series),
        stages=stages,
        stage=stage,
    )
    key = Key(body.epoch, body.seq, body.source)
    return batches.of_metrics(key, columns, lambda name: f"$.series[{name!r}].time_us", received_us, timed=found.timed)


class _Gathered(msgspec.Struct, gc=False):
    """The columns of several series, one series behind the other."""

    counts: list[int] = []
    step: list[int] = []
    value: list[int | float | NonFinite] = []
    time_us: list[int] = []
    timed: bool = True
    """Whether the sender said all times."""
    staged: bool = False


def _gathered(series: Mapping[str, FloatSeries | MetricSeries], received_us: int) -> _Gathered:
    """Return the columns of a body; what was sent without times has all of its points at `received_us`."""
    found = _Gathered()
    counts, step, value, time_us = found.counts, found.step, found.value, found.time_us
    for name, one in series.items():
        count = len(one.step)
        times, stages = one.time_us, one.stage
        if len(one.value) != count or not batches.is_name(name):
            _refuse(name, one)
        if times is None:
            found.timed, times = False, [received_us] * count
        elif len(times) != count:
            _refuse(name, one)
        if stages is not None:
            found.staged = True
            if len(stages) != count:
                _refuse(name, one)
        counts.append(count)
        step += one.step
        value += one.value
        time_us += times
    return found


_PLURAL: Final = {"value": "values", "time_us": "times", "stage": "stages"}


def _refuse(name: str, series: FloatSeries | MetricSeries) -> None:
    """Refuse a series by what is wrong with it: its name, or a column that is as long as no other."""
    batches.check_name(name, f"$.series[{name!r}]")
    count = len(series.step)
    for column, given in (("value", series.value), ("time_us", series.time_us), ("stage", series.stage)):
        if given is not None and len(given) != count:
            raise Invalid(f"{count} steps and {len(given)} {_PLURAL[column]}", path=f"$.series[{name!r}].{column}")


def _check_integers(body: MetricsBody) -> None:
    for name, series in body.series.items():
        batches.check_exact(series.value, f"$.series[{name!r}].value")


def _rounds(value: bytes) -> bool:
    """Whether among the numbers may be what was an integer of more bits than a float64 has."""
    numbers = np.frombuffer(value, "<f8")
    least, greatest = batches.extremes(numbers)
    if least > -EXACT and greatest < EXACT:  # not so where they are NaN
        return False
    magnitude = np.abs(numbers)
    return bool(((magnitude >= EXACT) & (magnitude != np.inf)).any())


def _integers(
    column: Sequence[int], name: Literal["step", "time_us"], series: Mapping[str, FloatSeries | MetricSeries]
) -> bytes:
    """Return integers, one series behind the other, as int64 little-endian."""
    try:
        return pack(f"<{len(column)}q", *column)
    except struct.error:
        for metric, one in series.items():
            if _is_wide(getattr(one, name) or ()):
                raise _too_wide(f"$.series[{metric!r}].{name}") from None
        raise


def _is_wide(column: Sequence[int]) -> bool:
    return any(not -(1 << 63) <= number < 1 << 63 for number in column)


def _too_wide(path: str) -> Invalid:
    return Invalid("an integer of more than 64 bits", path=path)


def _numbers(column: Sequence[int | float | NonFinite]) -> bytes | None:
    """Return numbers as float64 little-endian; None where an integer is larger than all of those."""
    layout = f"<{len(column)}d"
    try:
        try:
            return pack(layout, *column)
        except struct.error:  # the non-finite ones that JSON carries as strings
            return pack(layout, *map(float, column))
    except OverflowError:
        return None


def _stages(whole: str | None, every: Iterable[FloatSeries | MetricSeries]) -> tuple[tuple[str | None, ...], bytes]:
    known: dict[str | None, int] = {}
    indices: list[int] = []
    for series in every:
        if series.stage is None:
            indices += [known.setdefault(whole, len(known))] * len(series.step)
        else:
            indices += [known.setdefault(stage, len(known)) for stage in series.stage]
    batches.check_stages(tuple(known), "$.stage")
    return tuple(known), pack(f"<{len(indices)}H", *indices)


def logs(raw: bytes, media_type: str, received_us: int) -> Batch:
    """Decode a logs body. Raises `Invalid`, or msgspec's errors, naming the JSON path and the limit."""
    body: LogsBody = _decode(LogsBody, raw, media_type)
    batches.check_count(len(body.lines), "line", MAX_LINES, "$.lines")
    times = [received_us if line.time_us is None else line.time_us for line in body.lines]
    if _is_wide(times):
        raise _too_wide("$.lines[...].time_us")
    columns = LogColumns(
        time_us=pack(f"<{len(times)}q", *times),
        stream=bytes(STREAMS.index(line.stream) for line in body.lines),
        text=tuple(line.text for line in body.lines),
    )
    key = Key(body.epoch, body.seq, body.source)
    timed = all(line.time_us is not None for line in body.lines)
    return batches.of_logs(key, columns, "$.lines[...].time_us", received_us, timed=timed)
