"""Ids: UUIDv7 for what happens now, UUIDv5 for what a caller named. Source: RFC 9562."""

import os
import time
from typing import Final
from uuid import UUID, uuid5

_NAMESPACE: Final = UUID("6f1c61e4-1d8b-5c1c-9a43-7a1f0b6d2c55")


def uuid7() -> UUID:
    """Return a new time-ordered id: 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=value)


def derived(*parts: object) -> UUID:
    """Return the id that the parts always lead to; parts are kept apart by their lengths."""
    texts = [str(part) for part in parts]
    return uuid5(_NAMESPACE, "".join(f"{len(text)}:{text}" for text in texts))
