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
from events.types import Status
from projections.metrics import Summary, metrics_of
from projections.runs import Reader, StoredRun, stored_run
from projections.search.compiled import SINGLE, Parameters, as_set, condition, within
from projections.search.facets import PRIMARY, searchable
from projections.search.fields import TIME, Column, Facet, Field, Known, Metric
from projections.search.filters import And, Filter
from projections.search.ordering import NEWEST_FIRST, TYPES, Ordered, SortKey, after, leading, ordered

WALKED_RUNS: Final = 1_000
CALLED: Final = {"workflow": "r.workflow_id", "worker": "r.worker_id"}
"""Columns whose value is a name, and the id that it belongs to."""

FEW_RUNS: Final = 2_000
"""So many are looked up one by one."""

NARROW_RUNS: Final = 500
"""So many that status, workflow or archive leave are looked up before anything else is tried."""

SET_RUNS: Final = (4_000, 16_000, 64_000)
"""Bounds up to which comparisons are counted, one after the other; a set of the last is held in memory."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs, in which order; `now` is what durations of active runs count to."""

    ledger_id: UUID
    now: datetime
    statuses: Sequence[Status] | None = None
    workflow_id: UUID | None = None
    archived: bool | None = None
    filter: Filter | None = None
    sort: tuple[SortKey, ...] = NEWEST_FIRST

    @property
    def narrowed(self) -> bool:
        """Whether not every run counts, archived ones aside."""
        return self.statuses is not None or self.workflow_id is not None or self.filter is not None

    @property
    def by_time(self) -> bool:
        """Whether runs are wanted in the order of their creation."""
        return [key.field for key in self.sort] == [Column("created_at")]


class Key(msgspec.Struct, frozen=True):
    """Where a run stands in an order: the values that it is sorted by, and its id."""

    values: tuple[Any, ...]
    run_id: UUID


class Group(msgspec.Struct, frozen=True):
    """A value and how many runs have it."""

    value: Any
    runs: int


class Listing:
    """Reads lists by two pools: one for short statements, and one whose planner joins sets."""

    def __init__(self, pool: asyncpg.Pool, sets: asyncpg.Pool) -> None:
        self._pool = pool
        self._sets = sets

    async def find(self, query: Query, *, after_key: Key | None = None, limit: int) -> list[Key]:
        """Return where the runs stand that follow `after_key`, in order."""
        narrow = await self._narrow(query)
        if narrow is not None:
            return await self._looked_up(query, narrow, after_key, limit)
        known = _known(query)
        sets = [(few, one) for one in known if (few := await self._set(query, [one])) is not None]
        if sets:
            few, one = min(sets, key=lambda each: len(each[0]))
            return await self._looked_up(_without(query, [one]), few, after_key, limit)
        walk = _walk(query, after_key, limit, await self._mode(query))
        if walk is not None:
            rows = await self._pool.fetch(*walk)
            if len(rows) >= limit or (query.filter is None and query.sort == NEWEST_FIRST):
                return _keys(rows)
        through = await self._fewest(query, known) if query.by_time else None
        if through is not None:
            text = _gather(_without(query, [through]), after_key, limit, through=through)
            return _keys(await self._pool.fetch(*text))
        common = await self._set(query, known) if len(known) > 1 else None
        if common is not None:
            return await self._looked_up(_without(query, known), common, after_key, limit)
        return _keys(await self._sets.fetch(*_gather(query, after_key, limit)))

    async def _looked_up(self, query: Query, few: Sequence[UUID], after_key: Key | None, limit: int) -> list[Key]:
        return _keys(await self._pool.fetch(*_gather(query, after_key, limit, few)))

    async def _narrow(self, query: Query) -> list[UUID] | None:
        """Return the runs that status, workflow and archive leave, where they are asked for and few."""
        if query.statuses is None and query.workflow_id is None and not query.archived:
            return None
        parameters = Parameters(query.ledger_id, query.now)
        where = _where(query, parameters, filtered=False)
        return await self._few(f"select r.run_id from run r where {where}", parameters, NARROW_RUNS)  # noqa: S608

    async def _fewest(self, query: Query, parts: Sequence[Filter]) -> Filter | None:
        """Return the one of these that leaves the fewest runs, or None where each leaves more than the last bound."""
        for bound in SET_RUNS:
            fewest, least = None, bound
            for one in parts:
                parameters = Parameters(query.ledger_id, query.now)
                some = f"select from ({as_set(one, parameters)}) m limit {least + 1}"
                runs = await self._pool.fetchval(f"select count(*) from ({some}) m", *parameters.values)  # noqa: S608
                if runs <= least:
                    fewest, least = one, runs
            if fewest is not None:
                return fewest
        return None

    async def _set(self, query: Query, parts: Sequence[Filter]) -> list[UUID] | None:
        """Return the runs that all of these leave, or None where they are more than `FEW_RUNS`."""
        parameters = Parameters(query.ledger_id, query.now)
        every = " intersect ".join(f"({as_set(one, parameters)})" for one in parts)
        return await self._few(every, parameters, FEW_RUNS)

    async def _few(self, every: str, parameters: Parameters, most: int) -> list[UUID] | None:
        """Return the runs of a set, or None where they are more than `most`."""
        some = f"select run_id from ({every}) m limit {most + 1}"  # noqa: S608
        text = f"select array_agg(run_id) as runs from ({some}) m having count(*) <= {most}"  # noqa: S608
        row = await self._pool.fetchrow(text, *parameters.values)
        return None if row is None else row["runs"] or []

    async def runs(self, keys: Sequence[Key]) -> list[StoredRun]:
        """Return the runs that stand there, in this order; one that was deleted meanwhile is left out."""
        rows = await self._pool.fetch(load("projections.sql", "runs_by_id"), [key.run_id for key in keys])
        found = {row["run_id"]: stored_run(row) for row in rows}
        return [found[key.run_id] for key in keys if key.run_id in found]

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
            rows = await self._sets.fetch(*_grouped(query, by, after_group, limit))
        return [
            Group(next((one for one in tuple(row.values())[:-1] if one is not None), None), row["runs"]) for row in rows
        ]

    async def _mode(self, query: Query) -> str | None:
        """Return the mode of the primary metric that runs are sorted by first, where all have the same."""
        first = query.sort[0].field
        if not isinstance(first, Metric) or first.of != "best":
            return None
        row = await self._pool.fetchrow(
            load("projections.sql", "primary_modes"), query.ledger_id, searchable(first.name)
        )
        modes = [mode for mode in PRIMARY if row[mode]]
        return modes[0] if len(modes) == 1 else None


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


def _keys(rows: Sequence[asyncpg.Record]) -> list[Key]:
    return [Key(tuple(row.values())[1:], row["run_id"]) for row in rows]


def _where(query: Query, parameters: Parameters, *, filtered: bool = True) -> str:
    parts = ["r.ledger_id = $1"]
    if query.statuses is None:
        parts.append("r.status <> 'deleted'")
    else:
        parts.append(f"r.status = any({parameters.add(list(query.statuses), 'text[]')})")
    if query.workflow_id is not None:
        parts.append(f"r.workflow_id = {parameters.add(query.workflow_id, 'uuid')}")
    if query.archived is not None:
        parts.append("r.archived" if query.archived else "not r.archived")
    if filtered and query.filter is not None:
        parts.append(condition(query.filter, parameters))
    return " and ".join(parts)


def _columns(query: Query, parameters: Parameters) -> tuple[str, list[Ordered]]:
    joins, columns = "", []
    for index, key in enumerate(query.sort):
        join, more = ordered(key.field, index, parameters, descending=key.descending)
        joins += join
        columns += more
    return joins, columns


def _order(columns: Sequence[Ordered], names: Sequence[str], run_id: str) -> str:
    keys = [f"{name} {one.direction}" for name, one in zip(names, columns, strict=True)]
    return ", ".join([*keys, f"{run_id} {'desc' if columns[-1].descending else 'asc'}"])


def _known(query: Query) -> list[Filter]:
    """Return what must all be so of contents, as far as indexes tell which runs that leaves."""
    parts = query.filter.parts if isinstance(query.filter, And) else (query.filter,)
    return [one for one in parts if one is not None and as_set(one, Parameters(query.ledger_id, query.now))]


def _without(query: Query, known: Sequence[Filter]) -> Query:
    """Return what is still asked of runs for which these are so."""
    parts = query.filter.parts if isinstance(query.filter, And) else (query.filter,)
    left = tuple(part for part in parts if part is not None and not any(part is one for one in known))
    return msgspec.structs.replace(query, filter=And(left) if len(left) > 1 else next(iter(left), None))


def _gather(
    query: Query,
    after_key: Key | None,
    limit: int,
    few: Sequence[UUID] | None = None,
    *,
    through: Filter | None = None,
) -> tuple[Any, ...]:
    """Return the statement for all runs that match, sorted.

    Of `few` runs only, where no others can; or along the index of time, past all that are not in the set of `through`.
    """
    parameters = Parameters(query.ledger_id, query.now, probing=few is not None or through is not None)
    joins, columns = _columns(query, parameters)
    where = _where(query, parameters)
    if few is not None:
        where += f" and r.run_id = any({parameters.add(few, 'uuid[]')})"
    if through is not None:
        where += f" and {within(through, parameters)}"
    if after_key is not None:
        where += f" and {after(columns, after_key.values, after_key.run_id, parameters)}"
    selected = "".join(f", {one.expression} as k{n}" for n, one in enumerate(columns))
    order = _order(columns, [f"k{n}" for n in range(len(columns))], "r.run_id")
    text = f"select r.run_id{selected} from run r{joins} where {where} order by {order} limit {int(limit)}"  # noqa: S608
    return text, *parameters.values


def _walk(query: Query, after_key: Key | None, limit: int, mode: str | None) -> tuple[Any, ...] | None:
    """Return the statement along the index of the sort key; None where there is none, or it leads no further."""
    if len(query.sort) > 1:
        return None  # many runs may share the first key
    parameters = Parameters(query.ledger_id, query.now, probing=True)
    key = query.sort[0]
    where = _where(query, parameters, filtered=False)
    if key.field == Column("created_at"):
        source, run_id = "run r", "r.run_id"
        columns = [Ordered("r.created_at", TIME, key.descending, never_null=True)]
    else:
        lead = leading(key, parameters, mode)
        if lead is None or (after_key is not None and after_key.values[0] is None):
            return None
        table, there, columns = lead
        one = f"select * from run r where r.run_id = s0.run_id and {where}{parameters.fence}"  # noqa: S608
        source, where, run_id = f"{table} s0 cross join lateral ({one}) r", there, "s0.run_id"
    if after_key is not None:
        where += f" and {after(columns, after_key.values, after_key.run_id, parameters)}"
        bound = parameters.add(after_key.values[0], SINGLE[columns[0].kind])
        where += f" and {columns[0].expression} {'<=' if key.descending else '>='} {bound}"
    names = [f"k{n}" for n in range(len(columns))]
    selected = "".join(f", {one.expression} as {name}" for one, name in zip(columns, names, strict=True))
    matches, budget = "true", limit
    if query.filter is not None:
        matches, budget = condition(query.filter, parameters), max(limit, WALKED_RUNS)
    inner, outer = _order(columns[:1], [columns[0].expression], run_id), _order(columns[:1], names[:1], "r.run_id")
    walked = f"select r.*{selected} from {source} where {where} order by {inner} limit {int(budget)}"  # noqa: S608
    listed = "".join(f", {name}" for name in names)
    text = f"select r.run_id{listed} from ({walked}) r where {matches} order by {outer} limit {int(limit)}"  # noqa: S608
    return text, *parameters.values


def _grouped(query: Query, by: Field, after_group: Group | None, limit: int) -> tuple[Any, ...]:
    """Return the statement for the groups of runs that match."""
    parameters = Parameters(query.ledger_id, query.now)
    join, columns = ordered(by, 0, parameters, every=True)
    where = _where(query, parameters)
    names = ", ".join(f"k{n}" for n in range(len(columns)))
    values = ", ".join(f"{one.expression} as k{n}" for n, one in enumerate(columns))
    counted = f"select {values}, count(*) as runs from run r{join} where {where} group by {names}"  # noqa: S608
    if isinstance(by, Column) and by.name in CALLED:  # looked up once a group
        ids = f"select {CALLED[by.name]}, count(*) as runs from run r where {where} group by 1"  # noqa: S608
        counted = f"select {columns[0].expression} as k0, runs from ({ids}) r"  # noqa: S608
    beyond = f" where {_after_group(after_group, columns, parameters)}" if after_group is not None else ""
    order = ", ".join(f"k{n} nulls last" for n in range(len(columns)))
    text = f"select {names}, runs from ({counted}) g{beyond} order by runs desc, {order} limit {int(limit)}"  # noqa: S608
    return text, *parameters.values


def _after_group(group: Group, columns: Sequence[Ordered], parameters: Parameters) -> str:
    """Return the condition that a group comes after this one."""
    runs = parameters.add(group.runs, "bigint")
    condition = "false"
    for n, one in reversed(list(enumerate(columns))):
        held = _held(group.value, one.kind)
        if held is None:
            condition = f"(k{n} is null and {condition})"
        else:
            given = parameters.add(held, SINGLE[one.kind])
            condition = f"(k{n} > {given} or k{n} is null or (k{n} = {given} and {condition}))"
    return f"(runs < {runs} or (runs = {runs} and {condition}))"


def _held(value: Any, kind: str) -> Any:
    return value if isinstance(value, TYPES[kind]) else None
