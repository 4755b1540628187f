"""The list of a project's runs: filtered, sorted, grouped, with chosen columns, a page at a time."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.params import QueryParameter

from events.types import Status
from events.vocabulary import meant, vocabulary
from projections import workflows
from projections.runs import StoredRun
from projections.search import filters, listing
from projections.search.fields import Column, Facet, Field, Metric, value_of
from projections.search.filters import And, Compare, Filter
from projections.search.ordering import NEWEST_FIRST, kinds, parse_sort, split
from projections.search.statements import Group, Key, Query
from projections.search.tokens import FilterError
from service.access import READ
from service.context import Http, Service
from service.paging import Page, Size, Vocabulary, foreign, linked, opened, sealed
from service.past import PastRuns, runs_then
from service.problems import Invalid
from service.resources import RunResource

MAX_COLUMNS: Final = 100
STATUSES: Final = len(Status)
CONDITION: Final = (
    "a condition as in SQL's WHERE over a run's fields, config.<key>, summary.<key> and"
    " metrics.<name>.last|min|max|best|count: status = 'completed' AND config.lr < 0.1 AND NOT tags = 'smoke'."
    " A comparison of what a run does not have is false; IS NULL finds it (docs/lists.md)"
)

Row = dict[str, Any]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page ended: the order that it was in, the moment of the first page, and the last run's key."""

    order: bytes
    now: datetime
    values: list[Any]
    run_id: UUID | None = None
    runs: int = 0


@get("/projects/{project:str}/runs", needs=READ)
async def list_runs(
    request: Http,
    service: Service,
    project: str,
    status: list[str] | None = None,
    workflow: str | None = None,
    tag: list[str] | None = None,
    filter_: Annotated[str | None, QueryParameter(name="filter", description=CONDITION)] = None,
    sort: Annotated[str | None, QueryParameter(description="fields, `-` before one is descending")] = None,
    group: Annotated[str | None, QueryParameter(description="a field: answers its values with counts")] = None,
    columns: Annotated[str | None, QueryParameter(description="fields to answer instead of whole runs")] = None,
    archived: Literal["true", "false", "any"] | None = None,
    limit: Size = 100,
    cursor: str | None = None,
    at: str | None = None,
    vocabulary_: Vocabulary = None,
) -> Response[Page[RunResource]] | Response[Page[Row]] | Response[Page[Group]] | Response[PastRuns]:
    """A project's runs, newest first, the archived ones only if asked for. `status` and `tag` may be repeated.

    With `at`, a position or a time, as they were then. `as` speaks and understands another system's words for a status.
    """
    project_id = await service.project_id(request, project)
    words = vocabulary(vocabulary_)
    statuses = sorted({one for word in status for one in meant(vocabulary_, word)}) if status else None
    workflow_id = await _workflow_id(service, project_id, workflow)
    if at is not None:
        return await runs_then(
            request, service, project_id, at,
            statuses=statuses, workflow_id=workflow_id, limit=limit, cursor=cursor,
        )  # fmt: skip
    tree = _filter(filter_, tag or (), vocabulary_)
    if archived is None:
        archived = "any" if tree is not None and Column("archived") in filters.fields(tree) else "false"
    with _in("sort"):
        order = NEWEST_FIRST if sort is None else parse_sort(sort)
    named = f"{sort}\n{group}"
    place = _opened(cursor, named)
    query = Query(
        ledger_id=project_id,
        now=place.now if place else datetime.now(UTC),
        statuses=statuses,
        workflow_id=workflow_id,
        archived=None if archived == "any" else archived == "true",
        filter=tree,
        sort=order,
    )
    if group is not None:
        return await _groups(request, service, query, group, place, named, words, limit)
    with _in("columns"):
        wanted = None if columns is None else _columns(columns)
    if place is not None:
        _fits(place.values, kinds(order))
    seen = Key(tuple(place.values), place.run_id) if place and place.run_id else None
    found = await service.listing.find(query, after_key=seen, limit=limit + 1)
    following = None
    if len(found) > limit:
        last = found[limit - 1].key
        following = sealed(Place(_digest(named), query.now, list(last.values), last.run_id))
    if wanted is None:
        shown = await service.listed(found[:limit])
        if vocabulary_ is not None:
            shown = [msgspec.structs.replace(one, status=words[Status(one.status)]) for one in shown]
        return linked(request, shown, following)
    stored = [one.stored for one in found[:limit]]
    return linked(request, await _rows(service, query, stored, wanted, words), following)


async def _workflow_id(service: Service, project_id: UUID, name_or_id: str | None) -> UUID | None:
    if name_or_id is None:
        return None
    stored = await workflows.by_name_or_id(service.pool, project_id, name_or_id)
    if stored is None:
        raise Invalid(f"there is no workflow {name_or_id!r} in this project", path="workflow")
    return stored.workflow_id


def _filter(text: str | None, tags: Sequence[str], words: str | None) -> Filter | None:
    parts: list[Filter] = [Compare(Facet(("tags",)), "=", tag) for tag in tags]
    if text is not None:
        parts.append(filters.parse(text, vocabulary=words))
    return And(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)


@contextmanager
def _in(parameter: str) -> Iterator[None]:
    """Say in which parameter something could not be read."""
    try:
        yield
    except FilterError as error:
        error.parameter = parameter
        raise


def _columns(text: str) -> dict[str, Field]:
    wanted = {name.strip(): filters.parse_field(name.strip()) for name in split(text)}
    if len(wanted) > MAX_COLUMNS:
        raise Invalid(f"there may be at most {MAX_COLUMNS} columns", path="columns", limit=MAX_COLUMNS)
    return wanted


async def _rows(
    service: Service,
    query: Query,
    stored: Sequence[StoredRun],
    wanted: Mapping[str, Field],
    words: Mapping[Status, str],
) -> list[Row]:
    """Return the chosen columns of runs; `id` is always there."""
    names = [one.name for one in wanted.values() if isinstance(one, Metric)]
    metrics, called = await listing.besides(service.pool, query.ledger_id, stored, names)
    rows = []
    for one in stored:
        known = listing.known(one, metrics, called, query.now)
        row = {"id": str(one.run_id), **{name: value_of(known, field) for name, field in wanted.items()}}
        rows.append(
            {name: words[one.run.status] if wanted.get(name) == Column("status") else row[name] for name in row}
        )
    return rows


async def _groups(
    request: Http,
    service: Service,
    query: Query,
    group: str,
    place: Place | None,
    named: str,
    words: Mapping[Status, str],
    limit: int,
) -> Response[Page[Group]]:
    with _in("group"):
        by = filters.parse_field(group)
    if by == Column("status"):  # several of ours may be one of theirs
        counts: dict[str, int] = {}
        for one in await service.listing.groups(query, by, limit=STATUSES):
            word = words[Status(one.value)]
            counts[word] = counts.get(word, 0) + one.runs
        return linked(request, sorted((Group(*one) for one in counts.items()), key=lambda one: -one.runs), None)
    seen = Group(place.values[0] if place.values else None, place.runs) if place else None
    found = await service.listing.groups(query, by, after_group=seen, limit=limit + 1)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        following = sealed(Place(_digest(named), query.now, [last.value], runs=last.runs))
    return linked(request, found[:limit], following)


def _opened(cursor: str | None, named: str) -> Place | None:
    if cursor is None:
        return None
    place = opened(cursor, Place)
    if place.order != _digest(named):
        raise Invalid("this cursor belongs to another order or grouping", path="cursor")
    return place


def _fits(values: Sequence[Any], types: Sequence[type]) -> None:
    fitting = len(values) == len(types) and all(
        value is None or isinstance(value, kind) for value, kind in zip(values, types, strict=True)
    )
    if not fitting:
        raise foreign()


def _digest(named: str) -> bytes:
    return hashlib.sha256(named.encode()).digest()[:8]


ROUTES = Router(path="", route_handlers=[list_runs], tags=["runs"])
