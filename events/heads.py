"""Signed heads: what a ledger's chain was at some time, kept where whoever rewrites the ledger cannot reach.

    head = signer.sign(ledger_id, position, chain, now)
    head.expect(ledger_id, public_key)                 # raises HeadRefused
    bad = await check_heads(ledger, [head])            # None while the ledger still leads through it

The signature is Ed25519 (RFC 8032) over these bytes, integers big-endian, the time in microseconds since 1970:

    "tachograph.head.1" || ledger id (16) || position (8) || chain (32) || time (8) || key id (8)

A key id is the first eight bytes of the SHA-256 of the public key. The key lies beside the master key, in a file of its
own, so that it can be replaced without touching a payload. Source: docs/decisions/0009-signed-heads.md.
"""

import hashlib
import os
import secrets
import struct
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta

from events.codec import microseconds
from events.errors import LedgerError
from events.ledger import Ledger
from events.verification import FirstBad

SEED_BYTES: Final = 32
_FORMAT: Final = b"tachograph.head.1"
_FIXED: Final = struct.Struct(">16sq32sq8s")

Chain = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
KeyId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Signature = Annotated[str, Meta(pattern="^[0-9a-f]{128}$")]
Position = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Moment = Annotated[datetime, Meta(tz=True)]


class HeadRefused(LedgerError):
    """A head that proves nothing here: of another ledger, of an unknown key, or with a wrong signature."""


class SignedHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """After `position` events the chain of `ledger` had the value `chain`, says the key `key_id`, at `time`.

    `chain`, `key_id` and `signature` are hexadecimal.
    """

    ledger: UUID
    position: Position
    chain: Chain
    time: Moment
    key_id: KeyId
    signature: Signature

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""
        return _canonical(self.ledger, self.position, bytes.fromhex(self.chain), self.time, bytes.fromhex(self.key_id))

    def expect(self, ledger_id: UUID, public_key: bytes) -> None:
        """Raise `HeadRefused` unless this is a head of the ledger, signed by the key."""
        if self.ledger != ledger_id:
            raise HeadRefused(f"this head is of ledger {self.ledger}, not of {ledger_id}")
        if self.key_id != key_id(public_key):
            raise HeadRefused(f"this head was signed by key {self.key_id}, not by {key_id(public_key)}")
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(bytes.fromhex(self.signature), self.canonical())
        except InvalidSignature:
            raise HeadRefused(f"the signature of the head at position {self.position} is not its key's") from None


class Signer:
    """Signs heads with one Ed25519 key."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a signing key has {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    @classmethod
    def beside(cls, master_key: Path) -> "Signer":
        """Return the signer whose key lies beside the master key; the first to ask creates it, mode 0600.

        Raises `OSError` where it can be neither read nor created.
        """
        return cls(_seed(master_key.with_name("signing.key")))

    def sign(self, ledger_id: UUID, position: int, chain: bytes, time: datetime) -> SignedHead:
        """Return the signed head."""
        signature = self._key.sign(_canonical(ledger_id, position, chain, time, bytes.fromhex(self.key_id)))
        return SignedHead(
            ledger=ledger_id,
            position=position,
            chain=chain.hex(),
            time=time,
            key_id=self.key_id,
            signature=signature.hex(),
        )


def key_id(public_key: bytes) -> str:
    """Return the name of a public key."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def read_heads(text: bytes) -> list[SignedHead]:
    """Return the heads of a file: one document, or one a line. Raises `HeadRefused` naming the line that is none."""
    with suppress(msgspec.DecodeError, RecursionError):
        return [msgspec.json.decode(text, type=SignedHead)]  # over as many lines as it likes
    heads = []
    for number, line in enumerate(filter(None, map(bytes.strip, text.splitlines())), 1):
        try:
            heads.append(msgspec.json.decode(line, type=SignedHead))
        except (msgspec.DecodeError, RecursionError) as error:
            raise HeadRefused(f"head {number} of the file cannot be read: {error}") from None
    if not heads:
        raise HeadRefused("there is no head in the file")
    return heads


async def check_heads(ledger: Ledger, heads: Sequence[SignedHead]) -> FirstBad | None:
    """Return the first place where a ledger no longer leads through its own heads, or None.

    The heads must have been expected; the stored chain values must have been verified, or are so next.
    """
    before = 0
    for head in sorted(heads, key=lambda one: one.position):
        if head.position == 0:
            continue
        chain = await ledger.pool.fetchval(
            "select chain from ledger.event where ledger_id = $1 and position = $2", head.ledger, head.position
        )
        if chain is None:
            end, _ = await ledger.head(head.ledger)
            said = f"a head signed at {head.time.isoformat()} says that there were {head.position} events"
            return FirstBad(min(end, head.position - 1) + 1, f"cut off: {said}")
        if chain.hex() != head.chain:
            said = f"its chain value is not the one signed at {head.time.isoformat()}"
            return FirstBad(head.position, f"rewritten somewhere after position {before}: {said}")
        before = head.position
    return None


def _canonical(ledger_id: UUID, position: int, chain: bytes, time: datetime, key: bytes) -> bytes:
    return _FORMAT + _FIXED.pack(ledger_id.bytes, position, chain, microseconds(time), key)


def _seed(path: Path) -> bytes:
    """Return the key's bytes; of several processes that find none, one creates it and the others take that."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SEED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink()
    return path.read_bytes()
