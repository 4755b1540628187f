"""GPU workers: they introduce themselves, are listed, and are drained for maintenance."""

from uuid import UUID

from litestar import Response, Router, get, post
from litestar.params import JSONBody

from events.errors import NotFound
from events.ids import derived
from events.ledger import Appended
from events.organisation import WorkerDrained, WorkerRegistered, WorkerResumed
from projections import tenancy
from projections.execute import record
from projections.tenancy import Rows, Worker
from service.access import ADMINISTER, SEE_WORKERS, WORK
from service.bodies import DrainBody, NewWorker
from service.context import Http, Service
from service.paging import Page
from service.resources import WorkerResource, worker_resource


@post("/workers", needs=WORK, status_code=201)
async def register_worker(request: Http, data: JSONBody[NewWorker], service: Service) -> Response[WorkerResource]:
    """A GPU worker introduces itself; the same name is the same worker, with the hardware it has now."""
    organisation_id = request.user.organisation_id
    worker_id = derived(organisation_id, "worker", data.name)
    known = await tenancy.worker(service.pool, worker_id)
    version = known.version if known else 0
    registered = WorkerRegistered(worker=worker_id, name=data.name, host=data.host, slots=data.slots)
    inline = tenancy.worker_row(registered, version=version + 1)
    appended = await _record(request, service, worker_id, version, registered, inline)
    stored = await tenancy.worker(service.pool, worker_id)
    assert stored is not None
    return _answer(stored, appended, 201)


@get("/workers", needs=SEE_WORKERS)
async def list_workers(request: Http, service: Service) -> Page[WorkerResource]:
    """The organisation's GPU workers by name."""
    found = await tenancy.workers(service.pool, request.user.organisation_id)
    return Page([worker_resource(worker) for worker in found], None)


@post("/workers/{worker:uuid}/drain", needs=ADMINISTER, status_code=200)
async def drain_worker(
    request: Http, service: Service, worker: UUID, data: JSONBody[DrainBody] = DrainBody()
) -> Response[WorkerResource]:
    """Give a worker no new runs, for maintenance; those that it has go on to their end."""
    known = await _worker(request, service, worker)
    if known.drained_at is not None:
        return _answer(known, None, 200)
    event = WorkerDrained(worker=worker, reason=data.reason)
    inline = tenancy.worker_drain(worker, version=known.version + 1, drained=True)
    appended = await _record(request, service, worker, known.version, event, inline)
    return _answer(await _worker(request, service, worker), appended, 200)


@post("/workers/{worker:uuid}/resume", needs=ADMINISTER, status_code=200)
async def resume_worker(request: Http, service: Service, worker: UUID) -> Response[WorkerResource]:
    """Give a drained worker runs again."""
    known = await _worker(request, service, worker)
    if known.drained_at is None:
        return _answer(known, None, 200)
    inline = tenancy.worker_drain(worker, version=known.version + 1, drained=False)
    appended = await _record(request, service, worker, known.version, WorkerResumed(worker=worker), inline)
    return _answer(await _worker(request, service, worker), appended, 200)


async def _worker(request: Http, service: Service, worker_id: UUID) -> Worker:
    worker = await tenancy.worker(service.pool, worker_id)
    if worker is None or worker.organisation_id != request.user.organisation_id:
        raise NotFound(f"there is no worker {worker_id}")
    return worker


async def _record(
    request: Http,
    service: Service,
    worker_id: UUID,
    version: int,
    event: WorkerRegistered | WorkerDrained | WorkerResumed,
    inline: Rows,
) -> Appended:
    return await record(
        service.ledger,
        ledger_id=request.user.organisation_id,
        stream=worker_id,
        expected_version=version,
        events=[event],
        inline=inline,
        request=await service.asked(request),
    )


def _answer(worker: Worker, appended: Appended | None, status: int) -> Response[WorkerResource]:
    headers = {} if appended is None else {"Tachograph-Position": str(appended.position)}
    return Response(worker_resource(worker), status_code=status, headers=headers)


ROUTES = Router(
    path="",
    route_handlers=[register_worker, list_workers, drain_worker, resume_worker],
    request_max_body_size=256 << 10,
    tags=["workers"],
)
