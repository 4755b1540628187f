"""What TensorBoard's events say: scalars, old and new, and hyperparameters. Pure.

Source: tensorflow/core/framework/{summary,tensor}.proto, tensorflow/core/util/event.proto, and
tensorboard/plugins/hparams/{plugin_data,api}.proto.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from service.imports.tfrecord import BadRecord, double, fields, last, signed, text

HPARAMS: Final = "hparams"
SCALARS: Final = "scalars"
_DTYPES: Final[Mapping[int, str]] = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    19: "<f2",
}
_FLOAT_VALUES, _DOUBLE_VALUES, _INT_VALUES, _INT64_VALUES, _HALF_VALUES = 5, 6, 7, 10, 13
_BFLOAT16: Final = 14
_FAILURE: Final = 2


class Value(msgspec.Struct, frozen=True):
    """One value of a summary: a number, or what it is instead (the plugin, or the kind of value)."""

    tag: str
    number: float | None
    instead: str = ""
    content: bytes = b""


class Said(msgspec.Struct, frozen=True):
    """An event: when, at which step, and its values."""

    wall_time: float
    step: int
    values: list[Value]


def said(record: bytes, plugins: dict[str, str]) -> Said:
    """Return what an event says; `plugins` remembers the plugin of each tag, which only its first value names."""
    wall_time, step, values = 0.0, 0, []
    for number, value in fields(record):
        if number == 1:
            wall_time = double(value) or 0.0
        elif number == 2:
            step = signed(value)
        elif number == 5 and isinstance(value, bytes):
            values += [_value(one, plugins) for known, one in fields(value) if known == 1 and isinstance(one, bytes)]
    return Said(wall_time, step, values)


_KINDS: Final = {4: "image", 5: "histogram", 6: "audio"}


def _value(message: bytes, plugins: dict[str, str]) -> Value:
    tag, number, instead, content, tensor = "", None, "", b"", None
    for known, value in fields(message):
        match known, value:
            case 1, bytes():
                tag = text(value)
            case 2, bytes() if len(value) == 4:
                number = float(np.frombuffer(value, "<f4").astype("<f8")[0])
            case 8, bytes():
                tensor = value
            case 9, bytes():
                plugin = last(value, 1)
                if isinstance(plugin, bytes):
                    plugins.setdefault(tag, text(last(plugin, 1)))
                    found = last(plugin, 2)
                    content = found if isinstance(found, bytes) else b""
            case ((4 | 5 | 6), _):
                instead = _KINDS[known]
            case _:
                pass
    instead = plugins.get(tag, instead) or ("tensor" if tensor is not None else instead)
    if number is None and tensor is not None and plugins.get(tag, SCALARS) == SCALARS:
        number = scalar(tensor)
    return Value(tag, number, instead, content)


def scalar(tensor: bytes) -> float | None:
    """Return the number that a tensor of rank 0 holds, as a double; None where it holds anything else."""
    dtype, content, values = 0, b"", b""
    for known, value in fields(tensor):
        match known, value:
            case 1, int():
                dtype = value
            case 2, bytes() if any(number == 2 for number, _ in fields(value)):
                return None  # it has dimensions
            case 4, bytes():
                content = value
            case ((5 | 6 | 7 | 10 | 13), _):
                values += _raw(known, value)
            case _:
                pass
    if dtype == _BFLOAT16:
        half = content or values[:2]
        return float(np.frombuffer(b"\0\0" + half, "<f4")[0]) if len(half) == 2 else None
    kind = _DTYPES.get(dtype)
    if kind is None:
        return None
    data = content or values
    number = np.frombuffer(data[: np.dtype(kind).itemsize], kind) if len(data) >= np.dtype(kind).itemsize else None
    return None if number is None else float(number.astype("<f8")[0])


def _raw(field: int, value: int | bytes) -> bytes:
    """Return the first number of a field of values, packed or not, as raw bytes (little-endian)."""
    if field in {_FLOAT_VALUES, _DOUBLE_VALUES}:
        return value if isinstance(value, bytes) else b""
    if isinstance(value, bytes):
        value = _first_varint(value)
    number = signed(value)
    assert field in {_INT_VALUES, _INT64_VALUES, _HALF_VALUES}
    return struct.pack("<q", number)


def _first_varint(packed: bytes) -> int:
    for _, value in fields(b"\x08" + packed[:10]):
        assert isinstance(value, int)
        return value
    raise BadRecord("a packed field is empty")


def hyperparameters(content: bytes) -> dict[str, Any]:
    """Return what a session says of its hyperparameters; nothing where it says something else."""
    start = last(content, 3)
    found: dict[str, Any] = {}
    for number, entry in fields(start) if isinstance(start, bytes) else ():
        if number == 1 and isinstance(entry, bytes):
            value = last(entry, 2)
            found[text(last(entry, 1))] = _json(value) if isinstance(value, bytes) else None
    return found


def failed(content: bytes) -> bool:
    """Tell whether a session says that it failed."""
    end = last(content, 4)
    return isinstance(end, bytes) and last(end, 1) == _FAILURE


def _json(message: bytes, depth: int = 0) -> Any:
    """Return a google.protobuf.Value."""
    if depth > 50:
        raise BadRecord("a value is nested too deep")
    for number, value in fields(message):
        match number, value:
            case 2, bytes():
                return double(value)
            case 3, bytes():
                return text(value)
            case 4, int():
                return bool(value)
            case 6, bytes():
                return [_json(one, depth + 1) for known, one in fields(value) if known == 1 and isinstance(one, bytes)]
            case 5, bytes():
                return dict(_entries(value, depth))
            case _:
                pass
    return None


def _entries(message: bytes, depth: int) -> Iterator[tuple[str, Any]]:
    for number, entry in fields(message):
        if number == 1 and isinstance(entry, bytes):
            value = last(entry, 2)
            yield text(last(entry, 1)), _json(value, depth + 1) if isinstance(value, bytes) else None
