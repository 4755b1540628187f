"""Signed heads: over documented bytes, by a key that is made once; what was altered or is none is refused."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from events.heads import HeadRefused, Signer, read_heads
from events.ids import uuid7

SEED = b"s" * 32
NOW = datetime(2026, 11, 21, 6, 0, 0, 123456, tzinfo=UTC)


def test_a_head_is_signed_over_documented_bytes() -> None:
    signer, ledger_id = Signer(SEED), uuid7()
    head = signer.sign(ledger_id, 7, b"c" * 32, NOW)
    assert head.canonical() == (
        b"tachograph.head.1" + ledger_id.bytes + (7).to_bytes(8, "big") + b"c" * 32
        + (1_795_240_800_123_456).to_bytes(8, "big") + bytes.fromhex(signer.key_id)
    )  # fmt: skip
    head.expect(ledger_id, signer.public_key)
    line = msgspec.json.encode(head)
    assert read_heads(line) == read_heads(msgspec.json.format(line, indent=2)) == [head]
    assert read_heads(line + b"\n\n" + line + b"\n") == [head, head]


@pytest.mark.parametrize(
    "change",
    [
        {"position": 8},
        {"chain": "ab" * 32},
        {"time": NOW + timedelta(microseconds=1)},
        {"signature": "00" * 64},
        {"key_id": "00" * 8},
        {"ledger": uuid7()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_altered_head_is_refused(change: dict[str, object]) -> None:
    signer, ledger_id = Signer(SEED), uuid7()
    head = msgspec.structs.replace(signer.sign(ledger_id, 7, b"c" * 32, NOW), **change)
    with pytest.raises(HeadRefused):
        head.expect(ledger_id, signer.public_key)


@pytest.mark.parametrize("text", [b"", b"\n", b"{}", b"[1]", b"\xff", b'{"position": -1}', b"{" * 100_000])
def test_what_is_no_head_is_refused(text: bytes) -> None:
    with pytest.raises(HeadRefused):
        read_heads(text)


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = Signer.beside(tmp_path / "master.key")
    assert Signer.beside(tmp_path / "master.key").public_key == first.public_key
    assert [path.name for path in tmp_path.iterdir()] == ["signing.key"]
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600
