"""Events to bytes and back, and what the chain commits to. Pure.

A payload is the event as MessagePack, with its type as tag; the payload of a telemetry event is a columnar batch (see
`telemetry`), since version 2 packed (see `packing`). The chain of a ledger covers every stored metadata column in clear
and the payload by a salted commitment, so that a payload can be erased and the chain still verifies:

    commitment = SHA-256("tachograph.payload.1" || salt || payload)
    body       = SHA-256("tachograph.leaf.1" || each column, length-prefixed)
    chain      = SHA-256(previous chain || position || recorded_at || body)

Integers are big-endian signed 64 bits, times microseconds since the epoch, texts UTF-8, an absent column the
length 0xFFFFFFFF. The chain of an empty ledger is 32 zero bytes. Source: docs/decisions/0005-commitments.md.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct as Layout
from typing import Any, Final

import msgspec

from events.alerts import AlertEvent
from events.billing import BillingEvent
from events.errors import CorruptHistory
from events.organisation import OrganisationEvent, ProjectEvent, WorkflowEvent
from events.packing import packed, unpacked
from events.run_events import RunEvent
from events.sweep import SweepEvent
from events.telemetry import LogColumns, MetricColumns

EMPTY_CHAIN: Final = bytes(32)

LifecycleEvent = RunEvent | ProjectEvent | WorkflowEvent | OrganisationEvent | AlertEvent | BillingEvent | SweepEvent

_encoder: Final = msgspec.msgpack.Encoder(uuid_format="bytes")

EVENT_TYPES: Final[Mapping[str, type[LifecycleEvent]]] = {
    str(member.__struct_config__.tag): member for member in LifecycleEvent.__args__
}
"""Every lifecycle event by its type's name."""

_decoders: Final[Mapping[str, msgspec.msgpack.Decoder[LifecycleEvent]]] = {
    kind: msgspec.msgpack.Decoder(member) for kind, member in EVENT_TYPES.items()
}

METRICS: Final = "run.metrics_logged"
SYSTEM_METRICS: Final = "run.system_metrics_logged"
LOGS: Final = "run.logs_written"
TELEMETRY: Final = frozenset({METRICS, SYSTEM_METRICS, LOGS})
"""The types whose payloads are columnar batches."""
PACKED: Final = 2
"""The version of telemetry that is written; version 1 was not packed."""

_telemetry: Final[Mapping[str, msgspec.msgpack.Decoder[MetricColumns] | msgspec.msgpack.Decoder[LogColumns]]] = {
    METRICS: msgspec.msgpack.Decoder(MetricColumns),
    SYSTEM_METRICS: msgspec.msgpack.Decoder(MetricColumns),
    LOGS: msgspec.msgpack.Decoder(LogColumns),
}

UPCASTERS: Final[Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""(type, schema version) to a pure function that brings the decoded payload one version on."""


def event_type(event: LifecycleEvent) -> str:
    """Return the type's name, such as `run.created`."""
    return str(event.__struct_config__.tag)


def encode(event: LifecycleEvent | MetricColumns | LogColumns) -> bytes:
    """Return the event as MessagePack: a lifecycle event's payload, which is committed to and sealed."""
    return _encoder.encode(event)


def encode_batch(batch: MetricColumns | LogColumns, schema_version: int = PACKED) -> bytes:
    """Return a batch's payload, as events of this version hold it."""
    document = _encoder.encode(batch)
    return packed(document) if schema_version >= PACKED else document


def from_document(kind: str, schema_version: int, data: Mapping[str, Any]) -> LifecycleEvent:
    """Return a lifecycle event from its data as JSON-ready values. Raises `CorruptHistory` as `decode` does."""
    try:
        expected = EVENT_TYPES[kind]
        document = {**data, "type": kind}
        for version in range(schema_version, expected.schema_version):
            document = UPCASTERS[kind, version](document)
        if schema_version > expected.schema_version:
            raise CorruptHistory(f"{kind} version {schema_version} is newer than this release knows")
        return msgspec.convert(document, expected)
    except (KeyError, msgspec.ValidationError) as error:
        raise CorruptHistory(f"{kind} version {schema_version} cannot be read: {error!r}") from error


def decode(kind: str, schema_version: int, payload: bytes) -> LifecycleEvent | MetricColumns | LogColumns:
    """Return the event that `payload` holds, brought up to the newest version of its type.

    Raises `CorruptHistory` for a type or version that this release does not know.
    """
    try:
        if kind in TELEMETRY and schema_version in {1, PACKED}:
            return _telemetry[kind].decode(unpacked(payload) if schema_version == PACKED else payload)
        expected = EVENT_TYPES[kind]
        newest = expected.schema_version
        event: LifecycleEvent
        if schema_version == newest:
            event = _decoders[kind].decode(payload)
        else:
            document = msgspec.msgpack.decode(payload)
            for version in range(schema_version, newest) or (schema_version,):
                document = UPCASTERS[kind, version](document)
            event = msgspec.convert(document, LifecycleEvent)
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise CorruptHistory(f"{kind} version {schema_version} cannot be read: {error!r}") from error
    if type(event) is not expected:
        raise CorruptHistory(f"{kind} version {schema_version} cannot be read: its payload is a {event_type(event)}")
    return event


_INT: Final = Layout(">q")
_LENGTH: Final = Layout(">I")
_INT_COLUMN: Final = Layout(">Iq")
_ABSENT: Final = _LENGTH.pack(0xFFFFFFFF)
_NO_BATCH: Final = 3 * _ABSENT
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """Return whole microseconds since 1970-01-01T00:00Z."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(time_us: int) -> datetime:
    """Return the UTC moment of whole microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=time_us)


def time_column(time_us: int) -> bytes:
    """Return microseconds since the epoch as the chain covers them: 8 bytes, the greatest first."""
    return _INT.pack(time_us)


def commitment(salt: bytes, payload: bytes) -> bytes:
    """Return the salted commitment (32 bytes) to a payload."""
    return hashlib.sha256(b"tachograph.payload.1" + salt + payload).digest()


def request_digest(salt: bytes, request: bytes) -> bytes:
    """Return the salted digest (32 bytes) of the request that led to an event."""
    return hashlib.sha256(b"tachograph.request.1" + salt + request).digest()


def _int(value: int | None) -> bytes:
    return _ABSENT if value is None else _INT_COLUMN.pack(8, value)


def _bytes(value: bytes | None) -> bytes:
    return _ABSENT if value is None else _LENGTH.pack(len(value)) + value


def _text(value: str | None) -> bytes:
    return _ABSENT if value is None else _bytes(value.encode())


def body(
    ledger_id: bytes,
    event_id: bytes,
    stream: bytes,
    version: int | None,
    kind: str,
    schema_version: int,
    actor: str,
    cause: str | None,
    correlation_id: bytes | None,
    causation_id: bytes | None,
    epoch: int | None,
    source: str | None,
    seq: int | None,
    part: int | None,
    occurred: bytes,
    commitment: bytes,
) -> bytes:
    """Return the digest (32 bytes) over an event's columns: ids as 16 bytes, its time as `time_column` has it."""
    lifecycle = source is None and seq is None and part is None
    return hashlib.sha256(
        b"".join(
            (
                b"tachograph.leaf.1\0\0\0\x10",
                ledger_id,
                b"\0\0\0\x10",
                event_id,
                b"\0\0\0\x10",
                stream,
                _ABSENT if version is None else _INT_COLUMN.pack(8, version),
                _described(kind, schema_version, actor, cause),
                _ABSENT if correlation_id is None else b"\0\0\0\x10" + correlation_id,
                _ABSENT if causation_id is None else b"\0\0\0\x10" + causation_id,
                _ABSENT if epoch is None else _INT_COLUMN.pack(8, epoch),
                _NO_BATCH if lifecycle else _text(source) + _int(seq) + _int(part),
                b"\0\0\0\x08",
                occurred,
                _bytes(commitment),
            )
        )
    ).digest()


@lru_cache(maxsize=4096)
def _described(kind: str, schema_version: int, actor: str, cause: str | None) -> bytes:
    """Return four neighbouring columns, of which a ledger knows few combinations."""
    return _text(kind) + _int(schema_version) + _text(actor) + _text(cause)


def chain(previous: bytes, position: int, recorded: bytes, body: bytes) -> bytes:
    """Return the ledger's chain value (32 bytes) after the event at `position`; its time as `time_column` has it."""
    return hashlib.sha256(previous + _INT.pack(position) + recorded + body).digest()
