"""Packed payloads are what they were, or are refused."""

import os

import pytest

from events import codec
from events.packing import MAX_BYTES, packed, unpacked


@pytest.mark.parametrize("document", [b"", b"a", bytes(100_000), os.urandom(100_000), b"step" * 1_000])
def test_what_was_packed_comes_out(document: bytes) -> None:
    assert unpacked(packed(document)) == document


def test_regular_columns_take_a_fraction() -> None:
    steps = b"".join(step.to_bytes(8, "little") for step in range(1_000)) * 10
    assert len(packed(steps)) < len(steps) / 10


@pytest.mark.parametrize(
    "payload",
    [b"", b"abc", (MAX_BYTES + 1).to_bytes(4, "little") + b"abc", packed(b"hello" * 50)[:-1], packed(b"hello")[:4]],
)
def test_what_cannot_be_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="packed payload"):
        unpacked(payload)
    with pytest.raises(codec.CorruptHistory, match="cannot be read"):
        codec.decode(codec.METRICS, codec.PACKED, payload)
