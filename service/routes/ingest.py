"""Metrics and logs on their way in: columnar batches, durable when they are answered.

Source: docs/decisions/0033-cost-of-a-batch.md.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from litestar import Response, Router, post
from litestar.types import Receive, Scope

from events.codec import LOGS, METRICS, PACKED, SYSTEM_METRICS
from events.errors import Erased, Fenced, NotFound, TooLarge
from events.ids import derived
from events.ledger import Appended, Draft, Proposal
from events.refusals import actions
from service.access import LOG, RECORD
from service.context import Http, Service
from service.http.direct import direct, raise_again
from service.http.encodings import inflated
from service.http.requests import header, read
from service.http.transport import is_whole
from service.ingest import bodies, log_tables, metric_tables
from service.ingest.arrow import READERS
from service.ingest.batches import MAX_BODY_BYTES, Batch
from service.openapi import described
from service.problems import Malformed, Unsupported

BODY_SECONDS: Final = 30.0
FORM: Final = "application/x-www-form-urlencoded"
"""What curl calls any body by itself: JSON, as on all other routes."""

_TABLES: Final = dict.fromkeys(READERS)
METRICS_BODY: Final = described(
    takes={**dict.fromkeys(bodies.DOCUMENTS, bodies.MetricsBody), **_TABLES}, query=metric_tables.TableKey
)
LOGS_BODY: Final = described(
    takes={**dict.fromkeys(bodies.DOCUMENTS, bodies.LogsBody), **_TABLES}, query=log_tables.TableKey
)


class Accepted(msgspec.Struct, frozen=True):
    """A batch is durable: how many points or lines, and the position of its last event."""

    accepted: int
    position: int


Decode = Callable[[bytes, str, Http], Batch]
"""Makes a batch of a body, its media type and its request."""


def _metrics(raw: bytes, media_type: str, request: Http) -> Batch:
    received_us = time.time_ns() // 1000
    if media_type in READERS:
        return metric_tables.metrics(raw, media_type, _query(request.scope), received_us)
    return bodies.metrics(raw, _document(media_type), received_us)


def _logs(raw: bytes, media_type: str, request: Http) -> Batch:
    received_us = time.time_ns() // 1000
    if media_type in READERS:
        return log_tables.logs(raw, media_type, _query(request.scope), received_us)
    return bodies.logs(raw, _document(media_type), received_us)


def _query(scope: Scope) -> dict[str, str]:
    """Return what the query says, of what stands there twice the last."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _document(media_type: str) -> str:
    """Return the type of a body that is no table. Raises `Unsupported`."""
    if media_type == FORM:
        return bodies.DOCUMENTS[0]
    if media_type not in bodies.MEDIA_TYPES:
        accepted = (*bodies.MEDIA_TYPES, *READERS)
        raise Unsupported(f"bodies of {media_type!r}", accept=", ".join(filter(None, accepted)))
    return media_type


@post("/runs/{run:str}/metrics", needs=LOG, status_code=202, operation_class=METRICS_BODY)
async def log_metrics(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a columnar batch of points; durable when answered, the same again is answered the same.

    JSON, MessagePack, an Arrow IPC stream or a Parquet file, the last two with their key in the query
    (`epoch, seq, source, stage`); plain, gzip or zstd.
    """
    return await _record(request, service, run, METRICS, _metrics)


@post("/runs/{run:str}/system-metrics", needs=RECORD, status_code=202, operation_class=METRICS_BODY)
async def log_system_metrics(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a columnar batch of system metrics, namespace `system/`, as `metrics` does."""
    return await _record(request, service, run, SYSTEM_METRICS, _metrics)


@post("/runs/{run:str}/logs", needs=RECORD, status_code=202, operation_class=LOGS_BODY)
async def write_logs(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a batch of log lines; durable when answered, the same again is answered the same.

    JSON, MessagePack, an Arrow IPC stream or a Parquet file (`text`, and `time_us` and `stream` where they are known),
    the last two with their key in the query (`epoch, seq, source`); plain, gzip or zstd.
    """
    return await _record(request, service, run, LOGS, _logs)


async def _record(request: Http, service: Service, run: str, kind: str, decode: Decode) -> Response[Accepted]:
    """Take a batch in as far as there is room for it, and record it."""
    scope = request.scope
    length = header(scope, b"content-length") or ""
    size = int(length) if length.isdecimal() else MAX_BODY_BYTES
    _check_size(size)
    with service.admission.admitted(request.user.actor, size) as admitted:
        ledger_id, run_id = await service.address(request, run)
        raw = await _body(request.receive, header(scope, b"content-encoding"))
        batch = decode(raw, (header(scope, b"content-type") or "").partition(";")[0].strip().lower(), request)
        admitted.hold(sum(map(len, batch.payloads)))
        del raw
        if request.user.epoch is not None and request.user.epoch != batch.epoch:
            raise Fenced(f"this token is of epoch {request.user.epoch}, not {batch.epoch}")
        appended = await _append(request, service, run, _proposal(ledger_id, run_id, request.user.actor, kind, batch))
    headers = {"Tachograph-Position": str(appended.last), **admitted.headers}
    return Response(Accepted(batch.points, appended.last), headers=headers)


async def _body(receive: Receive, encoding: str | None) -> bytes:
    """Return what the body holds. Raises `Malformed` where it does not come, `TooLarge` where it is too much."""
    if is_whole(receive):
        raw = await read(receive, _check_size)
    else:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                raw = await read(receive, _check_size)
        except TimeoutError:
            raise Malformed(f"the body did not come within {BODY_SECONDS} s") from None
    return raw if encoding is None else inflated(raw, encoding, MAX_BODY_BYTES)


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise TooLarge(f"a body for this route has at most {MAX_BODY_BYTES} bytes", limit=MAX_BODY_BYTES)


def _proposal(ledger_id: UUID, run_id: UUID, actor: str, kind: str, batch: Batch) -> Proposal:
    return Proposal(
        ledger_id=ledger_id,
        stream=run_id,
        event_id=derived(run_id, batch.epoch, batch.source, batch.seq),
        actor=actor,
        occurred_at=datetime.now(UTC),
        drafts=[Draft(type=kind, payload=payload, schema_version=PACKED) for payload in batch.payloads],
        request=kind.encode() + batch.request,
        epoch=batch.epoch,
        source=batch.source,
        seq=batch.seq,
    )


async def _append(request: Http, service: Service, run: str, proposal: Proposal) -> Appended:
    try:
        return await service.ledger.append(proposal)
    except (NotFound, Erased):
        await service.run(request, run)  # says what is left of a deleted run
        raise
    except Fenced as fenced:
        latest = (await service.run(request, run)).run
        raise Fenced(str(fenced), state=latest.status, asked="log", allowed=actions(latest)) from fenced


ROUTES = Router(
    path="",
    route_handlers=[log_metrics, log_system_metrics, write_logs],
    middleware=[direct],
    before_request=raise_again,
    request_max_body_size=MAX_BODY_BYTES,
    tags=["telemetry"],
)
