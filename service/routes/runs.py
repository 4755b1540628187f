"""Runs: create, list, look at, edit, kill, delete."""

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response, Router, delete, get, patch, post
from litestar.params import JSONBody

from events import vocabulary as vocabularies
from events.commands import ArchiveRun, CloseRun, DeleteRun, EditRun, KillRun
from events.errors import NotFound, Rejected
from events.ids import derived, uuid7
from events.refusals import actions
from events.sql import load
from events.types import Status
from projections import runs
from projections.execute import answered_before, execute
from projections.new_runs import open_run
from projections.past import Moment
from projections.runs import StoredRun
from service.access import LOG, READ, READ_RUN, WRITE
from service.bodies import (
    ArchiveBody,
    CloseBody,
    DeleteBody,
    EditBody,
    KillBody,
    NewRun,
    ReproduceBody,
)
from service.context import Http, Service
from service.http.direct import direct, raise_again
from service.moments import MAX_POSITION
from service.openapi import described
from service.paging import Vocabulary
from service.past import run_then
from service.resources import RunResource, Tombstone
from service.runs import creation
from service.runs.deletion import DeletionResource, deletion, refuse_active
from service.runs.references import check_seen
from service.runs.reproduction import reproduced, reproductions, workflow_name


@post("/projects/{project:str}/runs", needs=WRITE, status_code=201)
async def create_run(request: Http, data: JSONBody[NewRun], service: Service, project: str) -> Response[RunResource]:
    """Create a run: managed when there is a command to start, else tracked."""
    project_id = await service.project_id(request, project)
    asked = await service.asked(request, project_id)
    run_id = derived(asked.event_id, "run") if asked.named else uuid7()
    answered = await answered_before(service.ledger, project_id, run_id, asked)
    if answered is not None:  # its workflow may have another name by now
        return await service.answer(answered, status=201)
    workflow = await creation.offered(service.pool, project_id, data.workflow) if data.workflow else None
    created = creation.created(data, workflow)
    await check_seen(
        request, service, code=created.code, dataset=created.dataset, import_volumes=created.import_volumes
    )
    outcome = await open_run(
        service.ledger, project_id, run_id, created, asked, workflow=workflow.workflow.name if workflow else None
    )
    return await service.answer(outcome, status=201)


@get("/projects/{project:str}/runs/by-name", needs=READ)
async def get_run_by_name(
    request: Http, service: Service, project: str, name: str, vocabulary: Vocabulary = None
) -> Response[RunResource]:
    """A project's run by its name, which is unique in the project."""
    words = vocabularies.vocabulary(vocabulary)
    known = await service.project(request, project)
    stored = await runs.by_name(service.pool, known.project_id, name)
    if stored is None:
        raise NotFound(f"there is no run named {name!r} in this project")
    (resource,) = await service.shown([stored])
    return await _whole(service, stored, resource, words)


@get("/runs/{run:str}", needs=READ_RUN)
async def get_run(
    request: Http, service: Service, run: str, at: str | None = None, vocabulary: Vocabulary = None
) -> Response[RunResource]:
    """A run now, or as of `at`: its version (`12`), a position (`position:4711`) or a time (RFC 3339).

    `as` says its status in another system's words.
    """
    words = vocabularies.vocabulary(vocabulary)
    stored = await service.run(request, run)
    if at is None:
        (resource,) = await service.shown([stored])
        return await _whole(service, stored, resource, words)
    stored, moment, resource = await run_then(request, service, stored, at)
    return await _whole(service, stored, resource, words, moment)


async def _whole(
    service: Service,
    stored: StoredRun,
    resource: RunResource,
    words: Mapping[Status, str],
    moment: Moment | None = None,
) -> Response[RunResource]:
    """Answer with all that one run shows: also whether it is synced, and what reproduces it."""
    synced = await _synced(service, stored, moment.position if moment else MAX_POSITION)
    again = await reproductions(service, stored.ledger_id, stored.run_id, moment.at if moment else None)
    return Response(
        msgspec.structs.replace(resource, synced=synced, reproductions=again, status=words[stored.run.status]),
        headers={"Tachograph-Position": str(stored.position)},
    )


async def _synced(service: Service, stored: StoredRun, up_to: int = MAX_POSITION) -> bool | None:
    """Return whether every batch that the run's sources say they sent had come; None while nobody has said."""
    if not stored.run.last_seq:
        return None
    rows = await service.pool.fetch(
        load("projections.sql", "batches_recorded"),
        stored.ledger_id,
        stored.run_id,
        stored.run.epoch,
        list(stored.run.last_seq),
        list(stored.run.last_seq.values()),
        up_to,
    )
    came = {row["source"]: row["batches"] for row in rows}
    return all(came.get(source, 0) >= last for source, last in stored.run.last_seq.items())


@post("/runs/{run:str}/reproduce", needs=WRITE, status_code=201, operation_class=described(optional=True))
async def reproduce_run(
    request: Http, service: Service, run: str, data: JSONBody[ReproduceBody] = ReproduceBody()
) -> Response[RunResource]:
    """Create a run of the same configuration, dataset and code; what is given differs, and is named in `changes`."""
    original = await service.run(request, run)
    asked = await service.asked(request, original.run_id)
    run_id = derived(asked.event_id, "run") if asked.named else uuid7()
    answered = await answered_before(service.ledger, original.ledger_id, run_id, asked)
    if answered is not None:  # what it reproduces may be another by now
        return await service.answer(answered, status=201)
    created = await reproduced(service, request, original, data)
    outcome = await open_run(
        service.ledger, original.ledger_id, run_id, created, asked, workflow=await workflow_name(service, original)
    )
    return await service.answer(outcome, status=201)


@get("/runs/{run:str}/transitions", needs=READ)
async def get_transitions(request: Http, service: Service, run: str) -> dict[str, list[dict[str, Any]]]:
    """A run's status history: from, to, cause, actor, what that was called, time; it outlives a deletion."""
    stored = await service.run(request, run, deleted=True)
    history = await runs.transitions(service.pool, stored.ledger_id, stored.run_id)
    named = [
        move | {"actor_name": await service.actors.name(request.user.organisation_id, move["actor"], move["at"])}
        for move in history
    ]
    return {"transitions": named}


@patch("/runs/{run:str}", needs=LOG)
async def edit_run(request: Http, data: JSONBody[EditBody], service: Service, run: str) -> Response[RunResource]:
    """Change tags, notes, alias, configuration or summary."""
    stored = await service.run(request, run)
    if data.name not in (msgspec.UNSET, stored.run.name):
        raise Rejected(
            "a run keeps its name; `alias` is a label that can change, and a workflow's new name goes to its next runs",
            state=stored.run.status,
            asked="rename",
            allowed=actions(stored.run),
        )
    tags = data.tags if data.tags is msgspec.UNSET else tuple(dict.fromkeys(data.tags))
    command = EditRun(tags=tags, notes=data.notes, alias=data.alias, config=data.config, summary=data.summary)
    outcome = await execute(
        service.ledger, stored.ledger_id, stored.run_id, command, await service.asked(request, stored.run_id)
    )
    return await service.answer(outcome)


@post("/runs/{run:str}/archive", needs=WRITE, status_code=200, operation_class=described(optional=True))
async def archive_run(
    request: Http, service: Service, run: str, data: JSONBody[ArchiveBody] = ArchiveBody()
) -> Response[RunResource]:
    """Take a run out of the everyday lists, or back with `{"archived": false}`."""
    stored = await service.run(request, run)
    asked = await service.asked(request, stored.run_id)
    command = ArchiveRun(archived=data.archived)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/kill", needs=WRITE, status_code=200, operation_class=described(optional=True))
async def kill_run(
    request: Http, service: Service, run: str, data: JSONBody[KillBody] = KillBody()
) -> Response[RunResource]:
    """End a run; what was logged until then stays."""
    stored = await service.run(request, run, to_decide=True)
    command = KillRun(grace_seconds=data.grace_seconds, reason=data.reason)
    asked = await service.asked(request, stored.run_id)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@post("/runs/{run:str}/close", needs=WRITE, status_code=200)
async def close_run(request: Http, data: JSONBody[CloseBody], service: Service, run: str) -> Response[RunResource]:
    """End a run now, by an operator's word: nothing is waited for, and its process is refused from here on."""
    stored = await service.run(request, run)
    asked = await service.asked(request, stored.run_id)
    command = CloseRun(reason=data.reason)
    return await service.answer(await execute(service.ledger, stored.ledger_id, stored.run_id, command, asked))


@get("/runs/{run:str}/deletion", needs=READ)
async def get_deletion(request: Http, service: Service, run: str) -> DeletionResource:
    """What deleting the run would take for good, and the requests that save its model, metrics and settings before."""
    return await deletion(service, await service.run(request, run))


@delete("/runs/{run:str}", needs=WRITE, status_code=200, operation_class=described(optional=True))
async def delete_run(
    request: Http, service: Service, run: str, data: JSONBody[DeleteBody] = DeleteBody()
) -> Response[Tombstone]:
    """Erase an ended run's contents for good; who, when, why and what it cost stay. See /runs/{run}/deletion first.

    An active run's refusal says in `save_first` what can be saved of it.
    """
    stored = await service.run(request, run, deleted=True)
    asked = await service.asked(request, stored.run_id)
    if stored.run.status is not Status.DELETED:
        await refuse_active(service, stored)
    outcome = await execute(service.ledger, stored.ledger_id, stored.run_id, DeleteRun(reason=data.reason), asked)
    left = StoredRun(ledger_id=outcome.ledger_id, run_id=outcome.run_id, position=outcome.position, run=outcome.run)
    tombstone = await service.tombstone(left)
    return Response(tombstone, headers={"Tachograph-Position": str(outcome.position)})


COMMANDS = Router(
    path="",
    route_handlers=[create_run, reproduce_run, edit_run, archive_run, kill_run, close_run, delete_run],
    middleware=[direct],
    before_request=raise_again,
)

ROUTES = Router(
    path="",
    route_handlers=[COMMANDS, get_run_by_name, get_run, get_transitions, get_deletion],
    request_max_body_size=256 << 10,
    tags=["runs"],
)
