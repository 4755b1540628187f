"""A sealed event as PostgreSQL receives it: `ledger.proposed_event` in the binary format of composite types.

Sealing has nearly all columns at hand as bytes, so the row is put together there, while the group before it commits.
The driver would encode it when the group's turn has come and PostgreSQL waits. Source: `record_recv` of PostgreSQL:
the number of columns, and of each its type, its length (-1 for NULL) and its value, the greatest byte first.
"""

from functools import lru_cache
from struct import Struct as Layout
from typing import Final

COLUMNS: Final = 19

_BYTEA, _BIGINT, _SMALLINT, _INTEGER, _TEXT, _TIMESTAMPTZ, _UUID = 17, 20, 21, 23, 25, 1184, 2950
"""The types' object ids, the same in every database."""

_HEAD: Final = Layout(">Ii")
_SMALLINT_COLUMN: Final = Layout(">Iih")
_INTEGER_COLUMN: Final = Layout(">Iii")
_BIGINT_COLUMN: Final = Layout(">Iiq")

_UUID_HEAD: Final = _HEAD.pack(_UUID, 16)
_DIGEST_HEAD: Final = _HEAD.pack(_BYTEA, 32)
_SALT_HEAD: Final = _HEAD.pack(_BYTEA, 16)
_FIRST_HEAD: Final = Layout(">I").pack(COLUMNS) + _UUID_HEAD

_NO_UUID, _NO_INTEGER, _NO_TEXT, _NO_BYTEA = (_HEAD.pack(kind, -1) for kind in (_UUID, _INTEGER, _TEXT, _BYTEA))
_NO_BATCH: Final = _NO_TEXT + _HEAD.pack(_BIGINT, -1) + _HEAD.pack(_SMALLINT, -1)

_YEAR_2000_US: Final = 946_684_800_000_000
"""Where PostgreSQL's time begins, in microseconds since 1970."""


def row(
    event_id: bytes,
    stream: bytes,
    version: int | None,
    kind: str,
    schema_version: int,
    actor: str,
    cause: str | None,
    correlation_id: bytes,
    causation_id: bytes | None,
    epoch: int | None,
    source: str | None,
    seq: int | None,
    part: int | None,
    occurred_us: int,
    commitment: bytes,
    body: bytes,
    salt: bytes,
    request: bytes | None,
    ciphertext: bytes,
) -> bytes:
    """Return the columns of `ledger.proposed_event` in their order.

    Ids have 16 bytes, `commitment` and `body` 32, `salt` 16; `occurred_us` is in microseconds since 1970. A lifecycle
    event has no source, seq and part.
    """
    return b"".join(
        (
            _FIRST_HEAD,
            event_id,
            _UUID_HEAD,
            stream,
            _NO_INTEGER if version is None else _INTEGER_COLUMN.pack(_INTEGER, 4, version),
            _described(kind, schema_version, actor, cause),
            _UUID_HEAD,
            correlation_id,
            _NO_UUID if causation_id is None else _UUID_HEAD + causation_id,
            _NO_INTEGER if epoch is None else _INTEGER_COLUMN.pack(_INTEGER, 4, epoch),
            _NO_BATCH if seq is None or part is None else _batch(source, seq, part),
            _BIGINT_COLUMN.pack(_TIMESTAMPTZ, 8, occurred_us - _YEAR_2000_US),
            _DIGEST_HEAD,
            commitment,
            _DIGEST_HEAD,
            body,
            _SALT_HEAD,
            salt,
            _NO_BYTEA if request is None else _HEAD.pack(_BYTEA, len(request)) + request,
            _HEAD.pack(_BYTEA, len(ciphertext)),
            ciphertext,
        )
    )


def _text(value: str | None) -> bytes:
    if value is None:
        return _NO_TEXT
    encoded = value.encode()
    return _HEAD.pack(_TEXT, len(encoded)) + encoded


@lru_cache(maxsize=4096)
def _described(kind: str, schema_version: int, actor: str, cause: str | None) -> bytes:
    """Return four neighbouring columns, of which a ledger knows few combinations."""
    return _text(kind) + _SMALLINT_COLUMN.pack(_SMALLINT, 2, schema_version) + _text(actor) + _text(cause)


def _batch(source: str | None, seq: int, part: int) -> bytes:
    return _text(source) + _BIGINT_COLUMN.pack(_BIGINT, 8, seq) + _SMALLINT_COLUMN.pack(_SMALLINT, 2, part)
