"""Envelope encryption: one AES-256 data key a stream, stored wrapped under the master key, cached while in use.

Deleting a stream's row of keys destroys its payloads wherever copies of them lie (crypto-shredding). Source:
docs/decisions/0010-erasure.md, RFC 3394 (key wrap), NIST SP 800-38D (GCM).
"""

import hmac
import os
from collections import OrderedDict
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from events.errors import CorruptHistory
from events.settings import SettingsError

DIGEST_BYTES = 16

_NONCE_BYTES = 12
_CACHED_KEYS = 20_000


class DataKey:
    """One stream's key. Nonces are random; 2³² messages a key are far away."""

    __slots__ = ("_cipher", "_requests", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)
        self._secret = secret
        self._requests: bytes | None = None  # most keys open a payload or two, and are never asked for a digest

    def seal(self, payload: bytes, event_id: UUID) -> bytes:
        """Return nonce and ciphertext, bound to the event's id."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, event_id.bytes)

    def unseal(self, sealed: bytes, event_id: bytes) -> bytes:
        """Return the payload; the id is its 16 bytes.

        Raises `CorruptHistory` when a bit of it, or the event it belongs to, differs.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], event_id)
        except (InvalidTag, ValueError):  # ValueError: cut off within the nonce
            raise CorruptHistory(f"the payload of event {UUID(bytes=event_id)} was altered") from None

    def digest(self, request: bytes) -> bytes:
        """Return what tells a request from another (16 bytes), and nothing to who does not hold the key."""
        if self._requests is None:
            self._requests = hmac.digest(self._secret, b"tachograph.request", "sha256")
        return hmac.digest(self._requests, request, "sha256")[:DIGEST_BYTES]


class Keyring:
    """Makes, wraps and caches data keys under one master key."""

    def __init__(self, master: bytes) -> None:
        if len(master) != 32:
            raise ValueError(f"the master key has 32 bytes, not {len(master)}")
        self._master = master
        self._keys: OrderedDict[UUID, DataKey] = OrderedDict()

    @classmethod
    def from_file(cls, path: Path) -> "Keyring":
        """Read the master key. Raises `SettingsError` where there is none, or none of 32 bytes."""
        try:
            return cls(path.read_bytes())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SettingsError(f"TACHOGRAPH_MASTER_KEY: {path} cannot be used: {why}") from error

    def new(self) -> tuple[DataKey, bytes]:
        """Return a fresh key and its wrapped form (40 bytes)."""
        secret = os.urandom(32)
        return DataKey(secret), aes_key_wrap(self._master, secret)

    def unwrap(self, wrapped: bytes) -> DataKey:
        """Return the key. Raises `CorruptHistory` when it was wrapped under another master key."""
        try:
            return DataKey(aes_key_unwrap(self._master, wrapped))
        except InvalidUnwrap:
            raise CorruptHistory("a data key does not open under this master key") from None

    def cached(self, stream: UUID) -> DataKey | None:
        """Return the stream's key if it is at hand."""
        key = self._keys.get(stream)
        if key is not None:
            self._keys.move_to_end(stream)
        return key

    def remember(self, stream: UUID, key: DataKey) -> None:
        """Keep a key whose row is known to be stored."""
        self._keys[stream] = key
        if len(self._keys) > _CACHED_KEYS:
            self._keys.popitem(last=False)

    def forget(self, stream: UUID) -> None:
        """Drop an erased stream's key."""
        self._keys.pop(stream, None)

    def derive(self, purpose: str) -> bytes:
        """Return 32 bytes for another purpose (tokens), bound to its name. Source: HMAC-SHA256 as a PRF."""
        return hmac.digest(self._master, b"tachograph.derive." + purpose.encode(), "sha256")
