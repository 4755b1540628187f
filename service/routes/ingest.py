"""Metrics and logs on their way in: columnar batches, durable when they are answered."""

import time
from datetime import UTC, datetime

import msgspec
from litestar import Response, Router, post

from events.codec import LOGS, METRICS, SYSTEM_METRICS
from events.errors import Erased, Fenced, NotFound
from events.ids import derived
from events.ledger import Draft, Proposal
from events.refusals import actions
from service import ingest
from service.context import Http, Service


class Accepted(msgspec.Struct, frozen=True):
    """A batch is durable: how many points or lines, and the position of its last event."""

    accepted: int
    position: int


@post("/runs/{run:str}/metrics", status_code=202)
async def log_metrics(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a columnar batch of points; durable when answered, the same again is answered the same."""
    batch = ingest.metrics(await request.body(), request.headers.get("content-type", ""), time.time_ns() // 1000)
    return await _record(request, service, run, METRICS, batch)


@post("/runs/{run:str}/system-metrics", status_code=202)
async def log_system_metrics(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a columnar batch of system metrics, namespace `system/`."""
    batch = ingest.metrics(await request.body(), request.headers.get("content-type", ""), time.time_ns() // 1000)
    return await _record(request, service, run, SYSTEM_METRICS, batch)


@post("/runs/{run:str}/logs", status_code=202)
async def write_logs(request: Http, service: Service, run: str) -> Response[Accepted]:
    """Record a batch of log lines."""
    batch = ingest.logs(await request.body(), request.headers.get("content-type", ""), time.time_ns() // 1000)
    return await _record(request, service, run, LOGS, batch)


async def _record(request: Http, service: Service, run: str, kind: str, batch: ingest.Batch) -> Response[Accepted]:
    ledger_id, run_id = await service.address(request, run)
    if request.user.epoch is not None and request.user.epoch != batch.epoch:
        raise Fenced(f"this token is of epoch {request.user.epoch}, not {batch.epoch}")
    proposal = Proposal(
        ledger_id=ledger_id,
        stream=run_id,
        event_id=derived(run_id, batch.epoch, batch.source, batch.seq),
        actor=request.user.actor,
        occurred_at=datetime.now(UTC),
        drafts=[Draft(type=kind, payload=payload) for payload in batch.payloads],
        request=kind.encode() + batch.request,
        epoch=batch.epoch,
        source=batch.source,
        seq=batch.seq,
    )
    try:
        appended = await service.ledger.append(proposal)
    except (NotFound, Erased):
        await service.run(request, run, program=True)  # says what is left of a deleted run
        raise
    except Fenced as fenced:
        latest = (await service.run(request, run, program=True)).run
        raise Fenced(str(fenced), state=latest.status, asked="log", allowed=actions(latest)) from fenced
    position = str(appended.last)
    return Response(Accepted(batch.points, appended.last), status_code=202, headers={"Tachograph-Position": position})


ROUTES = Router(
    path="",
    route_handlers=[log_metrics, log_system_metrics, write_logs],
    request_max_body_size=ingest.MAX_BODY_BYTES,
    tags=["telemetry"],
)
