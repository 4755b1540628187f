"""Bodies of metrics and logs as JSON or MessagePack, decoded into columns and never into points."""

import struct
from collections.abc import Sequence
from itertools import chain
from struct import pack
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from events.telemetry import STREAMS, LogColumns, MetricColumns
from service.ingest import batches
from service.ingest.batches import EXACT, MAX_LINE_CHARACTERS, MAX_LINES, MAX_POINTS, Batch, Epoch, Key, Seq, Source
from service.problems import Invalid

MEDIA_TYPES: Final = ("", "application/json", "application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
"""What these bodies are called; one that is called nothing is JSON."""

NonFinite = Literal["NaN", "Infinity", "-Infinity"]


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The points of one metric, column by column, all of one length."""

    step: list[int]
    value: list[float]
    time_us: list[int] | None = None
    stage: list[str | None] | None = None


class LooseSeries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Like `Series`, with the non-finite numbers that JSON cannot carry as strings, and integers left as they are."""

    step: list[int]
    value: list[int | float | NonFinite]
    time_us: list[int] | None = None
    stage: list[str | None] | None = None


class MetricsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of metrics."""

    epoch: Epoch
    seq: Seq
    series: dict[str, Series]
    source: Source = "sdk"
    stage: str | None = None


class LooseMetricsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of metrics with non-finite numbers, or with integers that may be no float64."""

    epoch: Epoch
    seq: Seq
    series: dict[str, LooseSeries]
    source: Source = "sdk"
    stage: str | None = None


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A log line."""

    text: Annotated[str, Meta(max_length=MAX_LINE_CHARACTERS)]
    time_us: int | None = None
    stream: Literal["stdout", "stderr", "log"] = "log"


class LogsBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch of log lines."""

    epoch: Epoch
    seq: Seq
    lines: Annotated[list[Line], Meta(max_length=MAX_LINES)]
    source: Source = "sdk"


_DECODERS: Final = {
    (body, media): decoder(body)
    for body in (MetricsBody, LooseMetricsBody, LogsBody)
    for media, decoder in (("json", msgspec.json.Decoder), ("msgpack", msgspec.msgpack.Decoder))
}


def _decode(body: type[Any], raw: bytes, media_type: str) -> Any:
    media = "msgpack" if "msgpack" in media_type else "json"
    return _DECODERS[body, media].decode(raw)


def metrics(raw: bytes, media_type: str, received_us: int) -> Batch:
    """Decode a metrics body. Raises `Invalid`, or msgspec's errors, naming the JSON path and the limit."""
    body: MetricsBody | LooseMetricsBody
    try:
        body = _decode(MetricsBody, raw, media_type)
    except msgspec.ValidationError:
        body = _decode(LooseMetricsBody, raw, media_type)
    names = tuple(body.series)
    every: list[Series | LooseSeries] = list(body.series.values())
    counts = tuple(len(series.step) for series in every)
    points = sum(counts)
    batches.check_count(points, "point", MAX_POINTS, "$.series")
    for name, series, count in zip(names, every, counts, strict=True):
        _check(name, series, count)
    value = _numbers([series.value for series in every], points)
    if value is None or _rounds(value):
        _check_integers(body if isinstance(body, LooseMetricsBody) else _decode(LooseMetricsBody, raw, media_type))
        assert value is not None
    given = [series.time_us if series.time_us is not None else [received_us] * len(series.step) for series in every]
    stages, stage = _stages(body.stage, every, counts)
    columns = MetricColumns(
        names=names,
        counts=counts,
        step=_integers([series.step for series in every], "step", names),
        value=value,
        time_us=_integers(given, "time_us", names),
        stages=stages,
        stage=stage,
    )
    return batches.of_metrics(
        Key(body.epoch, body.seq, body.source),
        columns,
        lambda name: f"$.series[{name!r}].time_us",
        received_us,
        timed=all(series.time_us is not None for series in every),
    )


def _check(name: str, series: Series | LooseSeries, count: int) -> None:
    if not batches.is_name(name):
        batches.check_name(name, f"$.series[{name!r}]")
    for column, given in (("value", series.value), ("time_us", series.time_us), ("stage", series.stage)):
        if given is not None and len(given) != count:
            raise Invalid(f"{count} steps and {len(given)} {_PLURAL[column]}", path=f"$.series[{name!r}].{column}")


_PLURAL: Final = {"value": "values", "time_us": "times", "stage": "stages"}


def _check_integers(body: LooseMetricsBody) -> None:
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


def _integers(parts: Sequence[Sequence[int]], column: str, names: Sequence[str]) -> bytes:
    """Return the parts behind each other, int64 little-endian."""
    together = list(chain.from_iterable(parts))
    try:
        return pack(f"<{len(together)}q", *together)
    except struct.error:
        for name, part in zip(names, parts, strict=True):
            if any(not -(1 << 63) <= item < 1 << 63 for item in part):
                path = f"$.series[{name!r}].{column}" if name else f"$.lines[...].{column}"
                raise Invalid("an integer of more than 64 bits", path=path) from None
        raise


def _numbers(parts: Sequence[Sequence[int | float | NonFinite]], count: int) -> bytes | None:
    """Return the parts behind each other, float64 little-endian; None where an integer is larger than all of those."""
    try:
        try:
            return pack(f"<{count}d", *chain.from_iterable(parts))
        except struct.error:  # the non-finite ones that JSON carries as strings
            return pack(f"<{count}d", *map(float, chain.from_iterable(parts)))
    except OverflowError:
        return None


def _stages(
    whole: str | None, every: Sequence[Series | LooseSeries], counts: Sequence[int]
) -> tuple[tuple[str | None, ...], bytes | None]:
    if whole is None and all(series.stage is None for series in every):
        return (), None
    known: dict[str | None, int] = {}
    indices: list[int] = []
    for series, count in zip(every, counts, strict=True):
        if series.stage is None:
            indices += [known.setdefault(whole, len(known))] * count
        else:
            indices += [known.setdefault(stage, len(known)) for stage in series.stage]
    batches.check_stages(tuple(known), "$.stage")
    return tuple(known), pack(f"<{len(indices)}H", *indices)


def logs(raw: bytes, media_type: str, received_us: int) -> Batch:
    """Decode a logs body. Raises `Invalid`, or msgspec's errors, naming the JSON path and the limit."""
    body: LogsBody = _decode(LogsBody, raw, media_type)
    batches.check_count(len(body.lines), "line", MAX_LINES, "$.lines")
    times = [received_us if line.time_us is None else line.time_us for line in body.lines]
    columns = LogColumns(
        time_us=_integers([times], "time_us", [""]),
        stream=bytes(STREAMS.index(line.stream) for line in body.lines),
        text=tuple(line.text for line in body.lines),
    )
    key = Key(body.epoch, body.seq, body.source)
    timed = all(line.time_us is not None for line in body.lines)
    return batches.of_logs(key, columns, "$.lines[...].time_us", received_us, timed=timed)
