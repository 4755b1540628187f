"""Batches of telemetry after their bodies were read: what holds for all of them, however they were written."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from events.codec import encode, encode_batch
from events.ledger import MAX_EVENT_BYTES
from events.packing import packed
from events.telemetry import LogColumns, MetricColumns, split_logs, split_metrics
from service.problems import Invalid

MAX_POINTS: Final = 100_000
MAX_LINES: Final = 10_000
MAX_LINE_CHARACTERS: Final = 65_536
MAX_NAME_BYTES: Final = 250
CHECKED_NAMES: Final = 16_384
MAX_STAGES: Final = 1 << 16
MAX_STAGES_BYTES: Final = 64 << 10
MAX_BODY_BYTES: Final = 8 << 20
"""Of a body as it is sent, and of what it holds once it is inflated."""
MAX_AHEAD_US: Final = 86_400 * 10**6
EXACT: Final = 1 << 53
"""Every integer up to here is a float64; of the larger ones, some are."""
FEW: Final = 64
"""Of so many numbers Python tells the extremes faster than numpy begins to."""
POINTS_PER_EVENT: Final = 16_000
LOG_BYTES_PER_EVENT: Final = 384 << 10
FITTING_BYTES: Final = MAX_EVENT_BYTES - (4 << 10)
"""What fits an event however it packs: LZ4 makes what it cannot pack longer by a 255th."""

Source = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]
Seq = Annotated[int, Meta(ge=1, le=(1 << 62))]
Epoch = Annotated[int, Meta(ge=0, le=1 << 30)]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Key(msgspec.Struct, frozen=True):
    """What keys a batch within its run."""

    epoch: Epoch
    seq: Seq
    source: Source = "sdk"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A checked body: its key, its payloads, and the digest that makes a repetition the same request."""

    epoch: int
    source: str
    seq: int
    points: int
    payloads: tuple[bytes, ...]
    request: bytes


def of_metrics(key: Key, columns: MetricColumns, path: Callable[[str], str], received_us: int, *, timed: bool) -> Batch:
    """Return columns as a batch; `path` says where in the body the times of a metric stand.

    Where not all were `timed` by the sender, a repetition may have other times. Raises `Invalid`.
    """
    wrong = _wrong_time(columns.times(), received_us)
    if wrong is not None:
        series = int(np.searchsorted(np.cumsum(columns.counts), wrong, side="right"))
        raise _far_off(int(columns.times()[wrong]), path(columns.names[series]), received_us)
    document = encode(columns)
    whole = columns.points <= POINTS_PER_EVENT and len(document) <= FITTING_BYTES
    asked = document if timed else encode(msgspec.structs.replace(columns, time_us=b""))
    return Batch(
        epoch=key.epoch,
        source=key.source,
        seq=key.seq,
        points=columns.points,
        payloads=(packed(document),) if whole else tuple(_fitting(columns)),
        request=hashlib.sha256(asked).digest(),
    )


def of_logs(key: Key, columns: LogColumns, path: str, received_us: int, *, timed: bool) -> Batch:
    """Return lines as a batch, as `of_metrics` does."""
    wrong = _wrong_time(columns.times(), received_us)
    if wrong is not None:
        raise _far_off(int(columns.times()[wrong]), path, received_us)
    asked = columns if timed else msgspec.structs.replace(columns, time_us=b"")
    return Batch(
        epoch=key.epoch,
        source=key.source,
        seq=key.seq,
        points=columns.points,
        payloads=tuple(encode_batch(part) for part in split_logs(columns, LOG_BYTES_PER_EVENT)),
        request=hashlib.sha256(encode(asked)).digest(),
    )


def extremes(column: NDArray[np.int64] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the least and the greatest of a column's numbers; where some are NaN, of the others or NaN."""
    if len(column) > FEW:
        return column.min(), column.max()
    numbers = column.tolist()
    return min(numbers), max(numbers)


def check_count(count: int, what: str, limit: int, path: str) -> None:
    """Refuse a batch of nothing, or of too many points or lines."""
    if count == 0:
        raise Invalid(f"a batch holds at least one {what}", path=path)
    if count > limit:
        raise Invalid(f"{count} {what}s in one body, over {limit}", path=path, limit=limit)


@lru_cache(maxsize=CHECKED_NAMES)
def is_name(name: str) -> bool:
    """Whether this can be the name of a metric; `check_name` says why not."""
    return 0 < len(name.encode()) <= MAX_NAME_BYTES and _CONTROL.search(name) is None


def check_name(name: str, path: str) -> None:
    """Refuse what is no name of a metric."""
    if is_name(name):
        return
    if _CONTROL.search(name):
        raise Invalid("a metric's name has no control characters", path=path)
    raise Invalid(f"a metric's name has 1 to {MAX_NAME_BYTES} bytes", path=path, limit=MAX_NAME_BYTES)


def check_stages(stages: Sequence[str | None], path: str) -> None:
    """Refuse stages that are too many or too long."""
    size = sum(len(stage.encode()) for stage in stages if stage is not None)
    if size > MAX_STAGES_BYTES:
        raise Invalid(
            f"the stages of a body have {size} bytes, over {MAX_STAGES_BYTES}", path=path, limit=MAX_STAGES_BYTES
        )
    if len(stages) > MAX_STAGES or any(stage is not None and len(stage) > MAX_NAME_BYTES for stage in stages):
        raise Invalid(
            f"at most {MAX_STAGES} stages of at most {MAX_NAME_BYTES} characters", path=path, limit=MAX_NAME_BYTES
        )


def check_exact(numbers: Iterable[object], path: str) -> None:
    """Refuse an integer among the numbers that no float64 is equal to."""
    for number in numbers:
        if isinstance(number, int) and abs(number) > EXACT and not _is_float(number):
            raise Invalid("an integer that no float64 equals", path=path, limit=EXACT)


def _is_float(number: int) -> bool:
    try:
        return int(float(number)) == number
    except OverflowError:
        return False


def _wrong_time(times: NDArray[np.int64], received_us: int) -> int | None:
    """Return where a time is that only a clock that is far off can say: before 1970, or in the future; late is none."""
    latest = received_us + MAX_AHEAD_US
    least, greatest = extremes(times)
    if least >= 0 and greatest <= latest:
        return None
    return int(np.flatnonzero((times < 0) | (times > latest))[0])


def _far_off(time_us: int, path: str, received_us: int) -> Invalid:
    return Invalid(
        f"{time_us} microseconds lie before 1970, or over a day ahead of our clock ({received_us}):"
        " the sender's clock is far off",
        path=path,
        limit=received_us + MAX_AHEAD_US,
    )


def _fitting(columns: MetricColumns) -> list[bytes]:
    """Return payloads that each fit an event, order kept."""
    payloads = []
    for part in split_metrics(columns, POINTS_PER_EVENT):
        if part.size_bytes <= FITTING_BYTES:
            payloads.append(encode_batch(part))
        else:
            for half in split_metrics(part, (part.points + 1) // 2):
                payloads += _fitting(half)
    return payloads
