"""Lists of a project's runs: filtered, sorted, grouped, a page at a time.

    page = await listing.find(Query(ledger_id=..., now=..., filter=parse("config.lr < 0.1")), limit=51)

Runs that status, workflow or archive leave are looked up where they are few, and so are those that one comparison of
contents leaves. Else a page is looked for along an index in the wanted order, past at most `WALKED_RUNS` runs, looking
up what the filter asks of each: enough where many match. If that does not fill the page, the comparison that leaves the
fewest is found by counting in its index: a list by time goes on along its own, and looks up the rest of the filter only
for runs that are in that comparison's set. Other orders join sets. None of this needs statistics of what users wrote.
See docs/decisions/0031-lists-and-counts.md.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from events.sql import load
from projections.apply import Connection
from projections.metrics import Summary, metrics_of
from projections.runs import Reader, StoredRun, stored_run
from projections.search.compiled import Parameters, as_set
from projections.search.facets import PRIMARY, searchable
from projections.search.fields import Facet, Field, Known, Metric
from projections.search.filters import Filter
from projections.search.ordering import NEWEST_FIRST
from projections.search.statements import (
    STORED,
    Group,
    Key,
    Query,
    gathering,
    grouping,
    indexed_parts,
    walking,
    where_clause,
    without,
)

FEW_RUNS: Final = 2_000
"""So many are looked up one by one."""

NARROW_RUNS: Final = 500
"""So many that status, workflow or archive leave are looked up before anything else is tried."""

SET_RUNS: Final = (4_000, 16_000, 64_000)
"""Bounds up to which comparisons are counted, one after the other; a set of the last is held in memory."""

Rows = Sequence[asyncpg.Record]


class Found(msgspec.Struct, frozen=True):
    """A run of a page: where it stands, what is stored of it, and the state of its credits, if it has one."""

    key: Key
    stored: StoredRun
    credits: bytes | None


class Listing:
    """Reads lists by two pools: one for short statements, and one whose planner joins sets."""

    def __init__(self, pool: asyncpg.Pool, sets: asyncpg.Pool) -> None:
        self._pool = pool
        self._sets = sets

    async def find(self, query: Query, *, after_key: Key | None = None, limit: int) -> list[Found]:
        """Return the runs that follow `after_key`, in order."""
        async with self._pool.acquire() as connection:
            rows = await _by_indexes(connection, query, after_key, limit)
        if rows is None:
            rows = await self._sets.fetch(*gathering(query, after_key, limit))
        return [_found(row) for row in rows]

    async def groups(self, query: Query, by: Field, *, after_group: Group | None = None, limit: int) -> list[Group]:
        """Return the values of a field with how many runs have each, the most frequent first; None is for none."""
        if isinstance(by, Facet) and not query.narrowed and query.archived is not True:
            value = None if after_group is None else after_group.value
            rows = await self._sets.fetch(
                load("projections.sql", "facet_groups"),
                query.ledger_id,
                by.key,
                query.archived is False,
                None if after_group is None else after_group.runs,
                value if isinstance(value, float) else None,
                value if isinstance(value, str) else None,
                limit,
            )
        else:
            rows = await self._sets.fetch(*grouping(query, by, after_group, limit))
        return [
            Group(next((one for one in tuple(row.values())[:-1] if one is not None), None), row["runs"]) for row in rows
        ]


async def _by_indexes(reader: Connection, query: Query, after_key: Key | None, limit: int) -> Rows | None:
    """Return the rows of a page, or None where what is asked leaves so many runs that sets have to be joined."""
    narrow = await _narrow(reader, query)
    if narrow is not None:
        return await _page(reader, gathering(query, after_key, limit, narrow))
    known = indexed_parts(query)
    sets = await _few(reader, query, [[one] for one in known]) if known else []
    if found := [(few, one) for few, one in zip(sets, known, strict=True) if few is not None]:
        few, one = min(found, key=lambda each: len(each[0]))
        return await _page(reader, gathering(without(query, [one]), after_key, limit, few))
    walk = walking(query, after_key, limit, await _mode(reader, query))
    if walk is not None:
        rows = await _page(reader, walk)
        if len(rows) >= limit or (query.filter is None and query.sort == NEWEST_FIRST):
            return rows
    through = await _fewest(reader, query, known) if query.by_time else None
    if through is not None:
        return await _page(reader, gathering(without(query, [through]), after_key, limit, through=through))
    if len(known) > 1:
        (common,) = await _few(reader, query, [known])
        if common is not None:
            return await _page(reader, gathering(without(query, known), after_key, limit, common))
    return None


async def _page(reader: Connection, statement: tuple[Any, ...]) -> Rows:
    rows: Rows = await reader.fetch(*statement)
    return rows


async def _narrow(reader: Connection, query: Query) -> list[UUID] | None:
    """Return the runs that status, workflow and archive leave, where they are asked for and few."""
    if query.statuses is None and query.workflow_id is None and not query.archived:
        return None
    parameters = Parameters(query.ledger_id, query.now)
    where = where_clause(query, parameters, filtered=False)
    few = _at_most(f"select r.run_id from run r where {where}", NARROW_RUNS)  # noqa: S608
    runs: list[UUID] | None = await reader.fetchval(f"select {few}", *parameters.values)
    return runs


async def _few(reader: Connection, query: Query, wanted: Sequence[Sequence[Filter]]) -> list[list[UUID] | None]:
    """Return of each of these the runs that all its comparisons leave, None where they are more than `FEW_RUNS`."""
    parameters = Parameters(query.ledger_id, query.now)
    every = [" intersect ".join(f"({as_set(one, parameters)})" for one in parts) for parts in wanted]
    columns = ", ".join(f"{_at_most(one, FEW_RUNS)} as s{n}" for n, one in enumerate(every))
    return list(await reader.fetchrow(f"select {columns}", *parameters.values))


def _at_most(every: str, most: int) -> str:
    """Return the array of a set's runs as an expression, NULL where they are more than `most`."""
    some = f"select run_id from ({every}) m limit {most + 1}"  # noqa: S608
    return f"(select coalesce(array_agg(run_id), '{{}}') from ({some}) m having count(*) <= {most})"  # noqa: S608


async def _fewest(reader: Connection, query: Query, parts: Sequence[Filter]) -> Filter | None:
    """Return the one of these that leaves the fewest runs, or None where each leaves more than the last bound."""
    for bound in SET_RUNS if parts else ():
        parameters = Parameters(query.ledger_id, query.now)
        some = [f"select from ({as_set(one, parameters)}) m limit {bound + 1}" for one in parts]
        counts = ", ".join(f"(select count(*) from ({one}) m) as c{n}" for n, one in enumerate(some))  # noqa: S608
        runs = list(await reader.fetchrow(f"select {counts}", *parameters.values))
        if min(runs) <= bound:
            return parts[runs.index(min(runs))]
    return None


async def _mode(reader: Connection, query: Query) -> str | None:
    """Return the mode of the primary metric that runs are sorted by first, where all have the same."""
    first = query.sort[0].field
    if not isinstance(first, Metric) or first.of != "best":
        return None
    row = await reader.fetchrow(load("projections.sql", "primary_modes"), query.ledger_id, searchable(first.name))
    modes = [mode for mode in PRIMARY if row[mode]]
    return modes[0] if len(modes) == 1 else None


def _found(row: asyncpg.Record) -> Found:
    stored = stored_run(row)
    return Found(Key(row[len(STORED) + 1 :], stored.run_id), stored, row["credits"])


async def besides(
    reader: Reader, ledger_id: UUID, stored: Sequence[StoredRun], names: Sequence[str]
) -> tuple[dict[UUID, dict[str, Summary]], dict[UUID, str]]:
    """Return these metrics of runs, and what their workflows and workers are called now."""
    metrics = await metrics_of(reader, ledger_id, stored, names) if names else {}
    ids = {one.run.workflow.id for one in stored if one.run.workflow} | {one.run.worker for one in stored}
    called = await reader.fetch(load("projections.sql", "names_of"), list(ids - {None}))
    return metrics, {row["id"]: row["name"] for row in called}


def known(
    stored: StoredRun, metrics: Mapping[UUID, Mapping[str, Summary]], called: Mapping[UUID, str], now: datetime
) -> Known:
    """Return a run with what `besides` told of it."""
    run = stored.run
    return Known(
        run_id=stored.run_id,
        run=run,
        workflow=called.get(run.workflow.id) if run.workflow else None,
        worker=called.get(run.worker) if run.worker else None,
        metrics=metrics.get(stored.run_id, {}),
        now=now,
    )
