"""Sweeps: searches over a workflow's parameters, made of runs."""

from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
from litestar import Response, Router, get, post
from litestar.params import JSONBody

from events.errors import NotFound
from events.ids import derived
from events.sweep import decide
from projections import sweeps
from projections.sweeps import StoredSweep
from service.access import READ, WRITE
from service.context import Http, Service
from service.paging import Page, Size, linked, numbered, opened, page, sealed
from service.runs.creation import offered
from service.runs.references import check_seen
from service.sweeps import NewSweep, SweepResource, TrialResource, searched, sweep_resource, trial_resource


class _Place(msgspec.Struct):
    created_at: datetime
    sweep_id: UUID


async def _sweep(service: Service, request: Http, sweep_id: UUID) -> StoredSweep:
    stored = await sweeps.get(service.pool, sweep_id)
    if stored is None:
        raise NotFound(f"there is no sweep {sweep_id}")
    await service.project(request, str(stored.ledger_id))
    return stored


async def _answer(service: Service, outcome: tuple[StoredSweep, int], status: int = 200) -> Response[SweepResource]:
    stored, position = outcome
    counts = await sweeps.counts(service.pool, stored.ledger_id, [stored.sweep_id])
    best = await sweeps.best(service.pool, stored)
    resource = sweep_resource(stored, counts[stored.sweep_id], best)
    return Response(resource, status_code=status, headers={"Tachograph-Position": str(position)})


@post("/projects/{project:str}/sweeps", needs=WRITE, status_code=201)
async def create_sweep(
    request: Http, data: JSONBody[NewSweep], service: Service, project: str
) -> Response[SweepResource]:
    """Start a search: grid, random or Bayesian. Its runs are the workflow's as it is now, with other parameters each.

    They go into the run's configuration, and as `--name=value` where the workflow's command says `${args}`.
    """
    known = await service.project(request, project)
    asked = await service.asked(request, known.project_id)
    sweep_id = derived(asked.event_id, "sweep")
    before = await service.ledger.stored(known.project_id, asked.event_id, asked.body) if asked.named else None
    if before is not None:  # its workflow may be another by now
        stored = await sweeps.at_version(service.ledger, known.project_id, sweep_id, before.version)
        return await _answer(service, (stored, before.last), 201)
    workflow = await offered(service.pool, known.project_id, data.workflow)
    recipe = workflow.workflow
    await check_seen(request, service, code=recipe.code, dataset=recipe.dataset, import_volumes=recipe.import_volumes)
    created = searched(data, workflow, seed=sweep_id.int & 0xFFFFFFFF)
    return await _answer(service, await sweeps.create(service.ledger, known.project_id, sweep_id, created, asked), 201)


@get("/projects/{project:str}/sweeps", needs=READ)
async def list_sweeps(
    request: Http, service: Service, project: str, limit: Size = 100, cursor: str = ""
) -> Response[Page[SweepResource]]:
    """A project's sweeps, newest first; `best` is told of each alone."""
    known = await service.project(request, project)
    place = opened(cursor, _Place) if cursor else None
    after = (place.created_at, place.sweep_id) if place else None
    found = await sweeps.of_project(service.pool, known.project_id, after, limit + 1)
    shown = found[:limit]
    counts = await sweeps.counts(service.pool, known.project_id, [one.sweep_id for one in shown])
    following = sealed(_Place(shown[-1].created_at, shown[-1].sweep_id)) if len(found) > limit else None
    return linked(request, [sweep_resource(one, counts[one.sweep_id]) for one in shown], following)


@get("/sweeps/{sweep:uuid}", needs=READ)
async def get_sweep(request: Http, service: Service, sweep: UUID) -> SweepResource:
    """A sweep, with how many trials stand where, and the best of them."""
    stored = await _sweep(service, request, sweep)
    counts = await sweeps.counts(service.pool, stored.ledger_id, [sweep])
    return sweep_resource(stored, counts[sweep], await sweeps.best(service.pool, stored))


@get("/sweeps/{sweep:uuid}/trials", needs=READ)
async def list_trials(
    request: Http, service: Service, sweep: UUID, limit: Size = 100, cursor: str = ""
) -> Response[Page[TrialResource]]:
    """A sweep's trials in order: the run of each, its parameters, and the best that it logged of the metric."""
    stored = await _sweep(service, request, sweep)
    found = await sweeps.trials(service.pool, stored, numbered(cursor), limit + 1)
    return page(request, [trial_resource(one) for one in found], limit, lambda last: str(last.number))


async def _asked(action: str, request: Http, service: Service, sweep_id: UUID) -> Response[SweepResource]:
    await _sweep(service, request, sweep_id)
    asked = await service.asked(request, sweep_id)
    outcome = await sweeps.change(service.ledger, sweep_id, partial(decide, action), asked)
    return await _answer(service, outcome)


@post("/sweeps/{sweep:uuid}/pause", needs=WRITE, status_code=200)
async def pause_sweep(request: Http, service: Service, sweep: UUID) -> Response[SweepResource]:
    """Make no runs until the sweep is resumed; those that there are go on."""
    return await _asked("pause", request, service, sweep)


@post("/sweeps/{sweep:uuid}/resume", needs=WRITE, status_code=200)
async def resume_sweep(request: Http, service: Service, sweep: UUID) -> Response[SweepResource]:
    """Make runs again."""
    return await _asked("resume", request, service, sweep)


@post("/sweeps/{sweep:uuid}/stop", needs=WRITE, status_code=200)
async def stop_sweep(request: Http, service: Service, sweep: UUID) -> Response[SweepResource]:
    """Make no more runs, for good; those that there are go on to their end."""
    return await _asked("stop", request, service, sweep)


@post("/sweeps/{sweep:uuid}/cancel", needs=WRITE, status_code=200)
async def cancel_sweep(request: Http, service: Service, sweep: UUID) -> Response[SweepResource]:
    """Make no more runs, for good, and kill those that have not ended (cause `sweep_cancelled`)."""
    return await _asked("cancel", request, service, sweep)


ROUTES = Router(
    path="",
    route_handlers=[
        create_sweep,
        list_sweeps,
        get_sweep,
        list_trials,
        pause_sweep,
        resume_sweep,
        stop_sweep,
        cancel_sweep,
    ],
    request_max_body_size=256 << 10,
    tags=["sweeps"],
)
