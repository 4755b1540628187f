"""Ids: UUIDv7 for what happens now, UUIDv5 for what a caller named. Source: RFC 9562."""

import hashlib
import os
import time
from typing import Final
from uuid import UUID

_NAMESPACE: Final = UUID("6f1c61e4-1d8b-5c1c-9a43-7a1f0b6d2c55").bytes


def uuid7() -> UUID:
    """Return a new time-ordered id: 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=value)


def derived(*parts: object) -> UUID:
    """Return the id that the parts always lead to; parts are kept apart by their lengths."""
    name = "".join([f"{len(text)}:{text}" for text in map(str, parts)])
    digest = hashlib.sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()
    value = int.from_bytes(digest[:16])  # as `uuid.uuid5` has it, in half of its time
    value = value & ~(0xF << 76) | (0x5 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=value)
