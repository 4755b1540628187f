"""Bodies of metrics and logs, decoded into columns and never into points; checked before anything is stored."""

import hashlib
import re
import struct
from collections.abc import Sequence
from itertools import chain
from struct import pack
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta

from events.codec import encode
from events.ledger import MAX_EVENT_BYTES
from events.telemetry import STREAMS, LogColumns, MetricColumns, split_logs, split_metrics
from service.problems import Invalid

MAX_POINTS: Final = 100_000
MAX_LINES: Final = 10_000
MAX_LINE_CHARACTERS: Final = 65_536
MAX_NAME_BYTES: Final = 250
MAX_STAGES_BYTES: Final = 64 << 10
MAX_BODY_BYTES: Final = 8 << 20
MAX_AHEAD_US: Final = 86_400 * 10**6
POINTS_PER_EVENT: Final = 16_000
LOG_BYTES_PER_EVENT: Final = 384 << 10

Source = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]
Seq = Annotated[int, Meta(ge=1, le=(1 << 62))]
Epoch = Annotated[int, Meta(ge=0, le=1 << 30)]
NonFinite = Literal["NaN", "Infinity", "-Infinity"]


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The points of one metric, column by column, all of one length."""

    step: list[int]
    value: list[float]
    time_us: list[int] | None = None
    stage: list[str | None] | None = None


class LooseSeries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Like `Series`, with the non-finite numbers that JSON cannot carry as strings."""

    step: list[int]
    value: list[float | NonFinite]
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
    """A batch of metrics with non-finite numbers."""

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


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A checked body: its key, its payloads, and the digest that makes a repetition the same request."""

    epoch: int
    source: str
    seq: int
    points: int
    payloads: tuple[bytes, ...]
    request: bytes


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

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
    if points == 0:
        raise Invalid("a batch holds at least one point", path="$.series")
    if points > MAX_POINTS:
        raise Invalid(f"{points} points in one body, over {MAX_POINTS}", path="$.series", limit=MAX_POINTS)
    for name, series, count in zip(names, every, counts, strict=True):
        _check(name, series, count)
    given = [series.time_us if series.time_us is not None else [received_us] * len(series.step) for series in every]
    stages, stage = _stages(body.stage, every, counts)
    columns = MetricColumns(
        names=names,
        counts=counts,
        step=_integers([series.step for series in every], "step", names),
        value=_numbers([series.value for series in every], points),
        time_us=_integers(given, "time_us", names),
        stages=stages,
        stage=stage,
    )
    _check_times(columns, [f"$.series[{name!r}].time_us" for name in names], received_us)
    timed = all(series.time_us is not None for series in every)
    asked = columns if timed else msgspec.structs.replace(columns, time_us=b"")
    return Batch(
        epoch=body.epoch,
        source=body.source,
        seq=body.seq,
        points=points,
        payloads=tuple(_fitting(columns)),
        request=hashlib.sha256(encode(asked)).digest(),
    )


def _check(name: str, series: Series | LooseSeries, count: int) -> None:
    path = f"$.series[{name!r}]"
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise Invalid(f"a metric's name has 1 to {MAX_NAME_BYTES} bytes", path=path, limit=MAX_NAME_BYTES)
    if _CONTROL.search(name):
        raise Invalid("a metric's name has no control characters", path=path)
    if len(series.value) != count:
        raise Invalid(f"{count} steps and {len(series.value)} values", path=f"{path}.value")
    if series.time_us is not None and len(series.time_us) != count:
        raise Invalid(f"{count} steps and {len(series.time_us)} times", path=f"{path}.time_us")
    if series.stage is not None and len(series.stage) != count:
        raise Invalid(f"{count} steps and {len(series.stage)} stages", path=f"{path}.stage")


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


def _check_times(columns: MetricColumns | LogColumns, paths: Sequence[str], received_us: int) -> None:
    """Refuse what only a clock that is far off can say. Telemetry may come late by any time, but not before it was."""
    times = columns.times()
    latest = received_us + MAX_AHEAD_US
    wrong = np.flatnonzero((times < 0) | (times > latest))
    if len(wrong):
        counts = columns.counts if isinstance(columns, MetricColumns) else (len(times),)
        path = paths[int(np.searchsorted(np.cumsum(counts), wrong[0], side="right"))]
        raise Invalid(
            f"{times[wrong[0]]} microseconds lie before 1970, or over a day ahead of our clock ({received_us}):"
            " the sender's clock is far off",
            path=path,
            limit=latest,
        )


def _numbers(parts: Sequence[Sequence[float | NonFinite]], count: int) -> bytes:
    """Return the parts behind each other, float64 little-endian."""
    try:
        return pack(f"<{count}d", *chain.from_iterable(parts))
    except struct.error:  # the non-finite ones that JSON carries as strings
        return pack(f"<{count}d", *map(float, chain.from_iterable(parts)))


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
    size = sum(len(stage.encode()) for stage in known if stage is not None)
    if size > MAX_STAGES_BYTES:
        raise Invalid(
            f"the stages of a body have {size} bytes, over {MAX_STAGES_BYTES}", path="$.stage", limit=MAX_STAGES_BYTES
        )
    if len(known) > 1 << 16 or any(stage is not None and len(stage) > MAX_NAME_BYTES for stage in known):
        raise Invalid(
            f"at most 65536 stages of at most {MAX_NAME_BYTES} characters", path="$.stage", limit=MAX_NAME_BYTES
        )
    return tuple(known), pack(f"<{len(indices)}H", *indices)


def _fitting(columns: MetricColumns) -> list[bytes]:
    """Return payloads that each fit an event, order kept."""
    payloads = []
    for part in split_metrics(columns, POINTS_PER_EVENT):
        encoded = encode(part)
        if len(encoded) <= MAX_EVENT_BYTES:
            payloads.append(encoded)
        else:
            for half in split_metrics(part, (part.points + 1) // 2):
                payloads += _fitting(half)
    return payloads


def logs(raw: bytes, media_type: str, received_us: int) -> Batch:
    """Decode a logs body. Raises `Invalid`, or msgspec's errors, naming the JSON path and the limit."""
    body: LogsBody = _decode(LogsBody, raw, media_type)
    if not body.lines:
        raise Invalid("a batch holds at least one line", path="$.lines")
    times = [received_us if line.time_us is None else line.time_us for line in body.lines]
    columns = LogColumns(
        time_us=_integers([times], "time_us", [""]),
        stream=bytes(STREAMS.index(line.stream) for line in body.lines),
        text=tuple(line.text for line in body.lines),
    )
    _check_times(columns, ["$.lines[...].time_us"], received_us)
    timed = all(line.time_us is not None for line in body.lines)
    asked = columns if timed else msgspec.structs.replace(columns, time_us=b"")
    return Batch(
        epoch=body.epoch,
        source=body.source,
        seq=body.seq,
        points=len(body.lines),
        payloads=tuple(encode(part) for part in split_logs(columns, LOG_BYTES_PER_EVENT)),
        request=hashlib.sha256(encode(asked)).digest(),
    )
