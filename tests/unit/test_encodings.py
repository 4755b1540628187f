"""Content encodings: what a body holds, or why it is refused, without inflating it past the limit."""

import gzip
import resource

import pyarrow as pa
import pytest

from events.errors import TooLarge
from service.http.encodings import inflated
from service.problems import Malformed, Unsupported

BODY = b'{"epoch": 1}' * 1_000
LIMIT = 1 << 20


def packed(body: bytes, encoding: str) -> bytes:
    return gzip.compress(body) if encoding == "gzip" else bytes(pa.compress(body, codec="zstd", asbytes=True))


ENCODINGS = pytest.mark.parametrize("encoding", ["gzip", "zstd"])


@ENCODINGS
def test_a_body_is_what_was_packed(encoding: str) -> None:
    assert inflated(packed(BODY, encoding), encoding, LIMIT) == BODY
    assert inflated(packed(BODY, encoding), encoding.upper(), LIMIT) == BODY
    assert inflated(packed(BODY, encoding) * 2, encoding, LIMIT) == BODY * 2
    assert inflated(BODY, "identity", LIMIT) == BODY


@ENCODINGS
def test_a_body_may_hold_as_much_as_the_limit_and_no_more(encoding: str) -> None:
    assert len(inflated(packed(bytes(LIMIT), encoding), encoding, LIMIT)) == LIMIT
    with pytest.raises(TooLarge) as refusal:
        inflated(packed(bytes(LIMIT + 1), encoding), encoding, LIMIT)
    assert refusal.value.limit == LIMIT


@ENCODINGS
def test_a_bomb_is_not_inflated(encoding: str) -> None:
    bomb = packed(bytes(256 << 20), encoding)
    assert len(bomb) < LIMIT
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TooLarge):
        inflated(bomb * 64, encoding, LIMIT)
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown_bytes < 256 << 20


@ENCODINGS
def test_a_body_that_is_cut_off_or_altered_is_malformed(encoding: str) -> None:
    whole = packed(BODY, encoding)
    for raw in (b"", whole[:1], whole[:-1], whole[: len(whole) // 2], whole + b"and more", BODY):
        with pytest.raises(Malformed):
            inflated(raw, encoding, LIMIT)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "lz4"])
def test_other_encodings_are_refused_and_the_known_ones_named(encoding: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        inflated(BODY, encoding, LIMIT)
    assert refusal.value.headers == {"Accept-Encoding": "gzip, zstd"}
