"""What the processes of a run say: start, beat, progress, finish; a GPU worker's claim and reports."""

from datetime import UTC, datetime
from typing import Any, Final, assert_never
from uuid import UUID

import msgspec
from litestar import Response, Router, post
from litestar.params import JSONBody
from msgspec.structs import replace

from events.accelerators import serves
from events.commands import (
    AttachRun,
    ClaimRun,
    EndRun,
    ReportIdle,
    ReportPreparation,
    ReportProgress,
    ReportStarted,
    ReportStopping,
    RequeueRun,
    RunCommand,
    SetPrimaryMetric,
)
from events.errors import Fenced, NotFound, Rejected
from events.refusals import actions
from events.run import Run
from events.transitions import ACTIVE
from events.types import Mode, Resources, StartCommand, Status, Volume
from projections import billing, runs, tenancy
from projections.claims import claim
from projections.execute import execute
from projections.tenancy import Worker
from service.access import LOG, WORK, WRITE
from service.bodies import (
    ClaimBody,
    Ended,
    FinishBody,
    HeartbeatBody,
    Idle,
    Preparing,
    PrimaryMetricBody,
    ProgressBody,
    Report,
    Requeue,
    StartBody,
    Started,
    Stopping,
)
from service.context import Http, Service
from service.http.direct import direct, raise_again
from service.problems import Invalid
from service.resources import RunResource

MAX_PROGRESS: Final = 1e15
"""Up to here floats tell whole numbers apart."""


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    """What a beating process is told."""

    epoch: int
    stop: bool
    stop_cause: str | None


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to start a run."""

    run_id: UUID
    project_id: UUID
    epoch: int
    token: str
    name: str
    command: tuple[str, ...]
    commands: tuple[StartCommand, ...]
    import_volumes: tuple[Volume, ...]
    export_volumes: tuple[Volume, ...]
    code: str | None
    dataset: str | None
    environment: dict[str, str]
    secrets: tuple[str, ...]
    protection: bool
    kill_requested: bool


@post("/runs/{run:str}/start", needs=WRITE, status_code=200)
async def start_run(request: Http, data: JSONBody[StartBody], service: Service, run: str) -> Response[RunResource]:
    """The user's own process starts a tracked run, or takes it over as a new attempt."""
    stored = await service.run(request, run)
    declared = stored.run.resources
    account = await billing.account(service.pool, request.user.organisation_id)
    command = AttachRun(
        pid=data.pid,
        host=data.host,
        environment=data.environment_captured,
        rate=account.rate(declared) if declared else None,
    )
    asked = await service.asked(request, stored.run_id)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/heartbeat", needs=LOG, status_code=200)
async def heartbeat(request: Http, data: JSONBody[HeartbeatBody], service: Service, run: str) -> HeartbeatAnswer:
    """An attempt lives; it is told whether to stop."""
    stored = await service.run(request, run)
    state = stored.run
    if data.epoch != state.epoch:
        raise Fenced(
            f"epoch {data.epoch} is not the run's latest attempt ({state.epoch}); this process must stop",
            state=state.status,
            asked="heartbeat",
            allowed=actions(state),
        )
    if state.status not in ACTIVE | {Status.CRASHED}:
        raise Rejected(
            f"the run is {state.status}; only an active run beats",
            state=state.status,
            asked="heartbeat",
            allowed=actions(state),
        )
    if state.mode is Mode.TRACKED:
        service.beats.beat(stored.run_id, data.epoch)
    kill = state.kill if state.status in ACTIVE else None
    return HeartbeatAnswer(state.epoch, kill is not None, kill.cause if kill else None)


@post("/runs/{run:str}/finish", needs=LOG, status_code=200)
async def finish_run(request: Http, data: JSONBody[FinishBody], service: Service, run: str) -> Response[RunResource]:
    """A process says how its run ended, and the last batch that each source sent."""
    stored = await service.run(request, run)
    command = EndRun(
        epoch=data.epoch,
        status=Status(data.status),
        cause=data.cause,
        exit_code=data.exit_code,
        error=data.error,
        last_seq=data.last_seq,
    )
    asked = await service.asked(request, stored.run_id)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/progress", needs=LOG, status_code=200)
async def report_progress(
    request: Http, data: JSONBody[ProgressBody], service: Service, run: str
) -> Response[RunResource]:
    """The program says how far it is."""
    for name in ("done", "total"):
        if (getattr(data, name) or 0) > MAX_PROGRESS:
            raise Invalid(f"`{name}` is {MAX_PROGRESS:g} at most", path=f"$.{name}", limit=MAX_PROGRESS)
    stored = await service.run(request, run)
    command = ReportProgress(epoch=data.epoch, done=data.done, total=data.total, unit=data.unit)
    asked = await service.asked(request, stored.run_id)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/primary-metric", needs=LOG, status_code=200)
async def set_primary_metric(
    request: Http, data: JSONBody[PrimaryMetricBody], service: Service, run: str
) -> Response[RunResource]:
    """Name the metric that tells the best point."""
    stored = await service.run(request, run)
    command = SetPrimaryMetric(name=data.name, mode=data.mode)
    asked = await service.asked(request, stored.run_id)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/claim", needs=WORK, status_code=200)
async def claim_run(request: Http, data: JSONBody[ClaimBody], service: Service, run: str) -> Claimed:
    """A GPU worker takes a queued run; the same claim again is answered the same."""
    stored = await service.run(request, run)
    worker = await tenancy.worker(service.pool, data.worker)
    if worker is None or worker.organisation_id != request.user.organisation_id:
        raise NotFound(f"there is no worker {data.worker}")
    if worker.drained_at is not None and stored.run.status is Status.QUEUED:
        raise Rejected(f"worker {worker.name} is drained and takes no new runs", state=stored.run.status, asked="claim")
    resources = stored.run.resources or Resources()
    kinds = _check_slots(data.slots, worker, resources)
    account = await billing.account(service.pool, request.user.organisation_id)
    if account.metered and stored.run.status is Status.QUEUED:
        await billing.check_balance(service.pool, request.user.organisation_id, datetime.now(UTC))
    command = ClaimRun(
        worker=data.worker,
        command_id=data.command_id,
        accelerators=data.slots,
        rate=account.rate(resources),
        kinds=kinds,
        epoch=data.epoch,
    )
    asked = replace(await service.asked(request, stored.run_id), actor=f"worker:{data.worker}")
    outcome = await claim(service.ledger, stored.ledger_id, stored.run_id, command, asked)
    claimed: Run = outcome.run
    history = await runs.transitions(service.pool, stored.ledger_id, stored.run_id)
    since = next(row["at"] for row in history if row["event"] == "run.starting" and row["epoch"] == claimed.epoch)
    return Claimed(
        run_id=stored.run_id,
        project_id=stored.ledger_id,
        epoch=claimed.epoch,
        token=service.keys.run_token(request.user.organisation_id, stored.run_id, claimed.epoch, since.timestamp()),
        name=claimed.name,
        command=claimed.command,
        commands=claimed.start_commands,
        import_volumes=claimed.import_volumes,
        export_volumes=claimed.export_volumes,
        code=claimed.code,
        dataset=claimed.dataset,
        environment=claimed.environment,
        secrets=claimed.secrets,
        protection=claimed.protection,
        kill_requested=claimed.kill is not None,
    )


def _check_slots(slots: tuple[str, ...], worker: Worker, resources: Resources) -> tuple[str, ...]:
    """Return the slots' kinds. Raises `Invalid` for what is not the worker's, or not what the run asks for."""
    owned = {slot.id: slot.kind for slot in worker.slots}
    for index, slot in enumerate(slots):
        if slot not in owned:
            raise Invalid(f"worker {worker.name} has no slot {slot!r}", path=f"$.slots[{index}]")
        if not serves(owned[slot], resources.accelerator):
            raise Invalid(f"slot {slot!r} is no {resources.accelerator}", path=f"$.slots[{index}]")
    if len(set(slots)) != resources.count:
        raise Invalid(
            f"the run takes {resources.count} slots, not {len(set(slots))}", path="$.slots", limit=resources.count
        )
    return tuple(owned[slot] for slot in slots)


@post("/runs/{run:str}/report", needs=WORK, status_code=200)
async def report(request: Http, data: JSONBody[Report], service: Service, run: str) -> Response[RunResource]:
    """A GPU worker says what its process does."""
    stored = await service.run(request, run)
    asked = replace(await service.asked(request, stored.run_id), actor=f"worker:{stored.run.worker}")
    outcome = await execute(service.ledger, stored.ledger_id, stored.run_id, _command(data), asked)
    return await service.answer(outcome)


def _command(data: Report) -> RunCommand:
    match data:
        case Preparing():
            return ReportPreparation(epoch=data.epoch, stage=data.stage, message=data.message, fraction=data.fraction)
        case Started():
            return ReportStarted(epoch=data.epoch, pid=data.pid, host=data.host)
        case Stopping():
            return ReportStopping(epoch=data.epoch, exit_code=data.exit_code)
        case Idle():
            return ReportIdle(epoch=data.epoch, exit_code=data.exit_code, error=data.error)
        case Requeue():
            return RequeueRun(epoch=data.epoch, reason=data.reason)
        case Ended():
            fields: dict[str, Any] = msgspec.structs.asdict(data)
            return EndRun(**{**fields, "status": Status(data.status)})
        case _:
            assert_never(data)


ROUTES = Router(
    path="",
    route_handlers=[
        start_run,
        heartbeat,
        finish_run,
        report_progress,
        set_primary_metric,
        claim_run,
        report,
    ],
    middleware=[direct],
    before_request=raise_again,
    request_max_body_size=256 << 10,
    tags=["attempts"],
)
