"""Payloads of telemetry packed by LZ4: a quarter of the bytes to hash, seal, store, publish and read again.

The format is that of `lz4.block` of the Python package lz4: the size as 4 bytes, little-endian, then one block. Pure.
Source: docs/decisions/0004-columnar-telemetry.md, the LZ4 block format.
"""

from typing import Final

import pyarrow as pa

MAX_BYTES: Final = 1 << 20
"""What a payload may hold; more is no payload of ours."""

_LZ4: Final = pa.Codec("lz4_raw")


def packed(document: bytes) -> bytes:
    """Return a document packed."""
    return len(document).to_bytes(4, "little") + _LZ4.compress(document, asbytes=True)  # type: ignore[no-any-return]


def unpacked(payload: bytes) -> memoryview:
    """Return what `packed` was given, in memory of Arrow's pool, which is reused. Raises `ValueError`."""
    size = int.from_bytes(payload[:4], "little")
    if size > MAX_BYTES or len(payload) < 4:
        raise ValueError(f"a packed payload of {len(payload)} bytes that says to hold {size}")
    try:
        return memoryview(_LZ4.decompress(memoryview(payload)[4:], size)).cast("B")
    except OSError as error:
        raise ValueError(f"a packed payload that is altered: {error}") from error
