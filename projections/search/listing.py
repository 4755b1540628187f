"""Lists of a project's runs: filtered, sorted, grouped, a page at a time.

    page = await listing.find(Query(ledger_id=..., now=..., filter=parse("config.lr < 0.1")), limit=51)

Runs that status, workflow or archive leave are looked up where they are few, and so are those that one comparison of
contents leaves. Else a page is looked for along an index in the wanted order, looking up what the filter asks of each
run: enough where many match. It takes turns of `WALKED_RUNS` runs while each finds half of what is still missing. For
what is missing then the comparison that leaves the fewest is found by counting in its index: a list by time goes on
along its own, and looks up the rest of the filter only for runs that are in that comparison's set. Other orders join
sets. None of this needs statistics of what users wrote.
See docs/decisions/0031-lists-and-counts.md.
"""

import asyncio
import bisect
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
from projections.search.compiled import Parameters
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
    intersection,
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
            rows, rest = await _by_indexes(connection, query, after_key, limit)
        if rest is not None:
            rows = [*rows, *await self._sets.fetch(*rest)]
        return [_found(row) for row in rows[:limit]]

    async def groups(self, query: Query, by: Field, *, after_group: Group | None = None, limit: int) -> list[Group]:
        """Return the values of a field with how many runs have each, the most frequent first; None is for none."""
        if isinstance(by, Facet) and not query.narrowed and query.archived is not True:
            return await self._by_facet(query, by.key, after_group, limit)
        rows = await self._sets.fetch(*grouping(query, by, after_group, limit))
        return [Group(_value(tuple(row)[:-1]), row["runs"]) for row in rows]

    async def _by_facet(self, query: Query, key: str, after_group: Group | None, limit: int) -> list[Group]:
        """Count a facet's values while another connection counts all runs, which tells how many have none."""
        value = None if after_group is None else after_group.value
        rows, every = await asyncio.gather(
            self._sets.fetch(
                load("projections.sql", "facet_groups"),
                query.ledger_id,
                key,
                query.archived is False,
                None if after_group is None else after_group.runs,
                value if isinstance(value, float) else None,
                value if isinstance(value, str) else None,
                limit,
            ),
            self._sets.fetchval(load("projections.sql", "count_runs"), query.ledger_id, query.archived is False),
        )
        groups = [Group(_value((row["k0"], row["k1"])), row["runs"]) for row in rows if row["runs"] is not None]
        none = Group(None, every - rows[0]["holders"])
        follows = after_group is None or (after_group.runs, after_group.value is not None) > (none.runs, False)
        if none.runs > 0 and follows:
            bisect.insort(groups, none, key=lambda one: -one.runs)  # behind the others of its size
        return groups[:limit]


async def _by_indexes(
    reader: Connection, query: Query, after_key: Key | None, limit: int
) -> tuple[Rows, tuple[Any, ...] | None]:
    """Return the rows of a page that indexes lead to, and the statement for the rest where sets have to be joined."""
    known = indexed_parts(query)
    each = [(one,) for one in known]
    few = () if await _is_narrow(reader, query) else await _fewest(reader, query, each, (FEW_RUNS,))
    if few is not None:
        return await _page(reader, gathering(without(query, few), after_key, limit, few=few)), None
    found = await _walked(reader, query, after_key, limit)
    if len(found) >= limit or (query.filter is None and query.sort == NEWEST_FIRST):
        return found, None
    if found:
        after_key = _found(found[-1]).key
    through = await _fewest(reader, query, each, SET_RUNS) if query.by_time else None
    if through is not None:
        rest = gathering(without(query, through), after_key, limit, through=through[0])
        return [*found, *await _page(reader, rest)], None
    few = await _fewest(reader, query, [known], (FEW_RUNS,)) if len(known) > 1 else None
    if few is not None:
        rest = gathering(without(query, few), after_key, limit, few=few)
        return [*found, *await _page(reader, rest)], None
    return found, gathering(query, after_key, limit)


async def _walked(reader: Connection, query: Query, after_key: Key | None, limit: int) -> list[asyncpg.Record]:
    """Return what a walk along the index of the order finds, in turns while each finds half of what is missing."""
    found: list[asyncpg.Record] = []
    mode = await _mode(reader, query)
    while (walk := walking(query, after_key, limit - len(found), mode)) is not None:
        rows = await _page(reader, walk)
        found += rows
        missing = limit - len(found)
        if missing == 0 or 2 * len(rows) < missing or query.filter is None:
            break
        after_key = _found(rows[-1]).key
    return found


async def _is_narrow(reader: Connection, query: Query) -> bool:
    """Return whether status, workflow and archive are asked for, and leave few runs."""
    if query.statuses is None and query.workflow_id is None and not query.archived:
        return False
    parameters = Parameters(query.ledger_id, query.now)
    where = where_clause(query, parameters, filtered=False)
    (runs,) = await _counts(reader, [f"select from run r where {where}"], parameters, NARROW_RUNS)
    return runs <= NARROW_RUNS


async def _page(reader: Connection, statement: tuple[Any, ...]) -> Rows:
    rows: Rows = await reader.fetch(*statement)
    return rows


async def _fewest(
    reader: Connection, query: Query, wanted: Sequence[Sequence[Filter]], bounds: Sequence[int]
) -> Sequence[Filter] | None:
    """Return what leaves the fewest runs, each of these together, or None where all leave more than the last bound."""
    for bound in bounds if wanted else ():
        parameters = Parameters(query.ledger_id, query.now)
        runs = await _counts(reader, [intersection(parts, parameters) for parts in wanted], parameters, bound)
        if min(runs) <= bound:
            return wanted[runs.index(min(runs))]
    return None


async def _counts(reader: Connection, sets: Sequence[str], parameters: Parameters, most: int) -> list[int]:
    """Return how many runs some statements find, no further than to one more than `most`."""
    some = [f"(select count(*) from (select from ({one}) m limit {most + 1}) m) as c{n}" for n, one in enumerate(sets)]  # noqa: S608
    return list(await reader.fetchrow(f"select {', '.join(some)}", *parameters.values))


async def _mode(reader: Connection, query: Query) -> str | None:
    """Return the mode of the primary metric that runs are sorted by first, where all have the same."""
    first = query.sort[0].field
    if not isinstance(first, Metric) or first.of != "best":
        return None
    row = await reader.fetchrow(load("projections.sql", "primary_modes"), query.ledger_id, searchable(first.name))
    modes = [mode for mode in PRIMARY if row[mode]]
    return modes[0] if len(modes) == 1 else None


def _value(sides: Sequence[Any]) -> Any:
    """Return the one of a group's columns that is there: a value is a number or a text."""
    return next((one for one in sides if one is not None), None)


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
