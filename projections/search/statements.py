"""Lists and counts of runs as SQL: what is asked, and the statements that look for it. Pure.

A statement for a page answers what is stored of each run (`STORED` and `credits`), then what the runs are sorted by.
Which statement is asked when: `projections.search.listing`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from events.types import Status
from projections.runs import TIMES
from projections.search.compiled import SINGLE, Parameters, as_set, condition, within
from projections.search.fields import TIME, Column, Field
from projections.search.filters import And, Filter
from projections.search.ordering import NEWEST_FIRST, TYPES, Ordered, SortKey, after, leading, ordered

STORED: Final = ("ledger_id", "run_id", "position", "state", *TIMES)
"""The columns of a run's row that say all of it."""

WALKED_RUNS: Final = 1_000
"""So many are walked past along an index in search of those that a filter lets through."""

CALLED: Final = {"workflow": "r.workflow_id", "worker": "r.worker_id"}
"""Columns whose value is a name, and the id that it belongs to."""


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


def where_clause(query: Query, parameters: Parameters, *, filtered: bool = True) -> str:
    """Return the condition over `r` that a run is asked for; `filtered`, by the filter too."""
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


def indexed_parts(query: Query) -> list[Filter]:
    """Return what must all be so of contents, as far as indexes tell which runs that leaves."""
    parts = query.filter.parts if isinstance(query.filter, And) else (query.filter,)
    return [one for one in parts if one is not None and as_set(one, Parameters(query.ledger_id, query.now))]


def without(query: Query, known: Sequence[Filter]) -> Query:
    """Return what is still asked of runs for which these are so."""
    parts = query.filter.parts if isinstance(query.filter, And) else (query.filter,)
    left = tuple(part for part in parts if part is not None and not any(part is one for one in known))
    return msgspec.structs.replace(query, filter=And(left) if len(left) > 1 else next(iter(left), None))


def gathering(
    query: Query,
    after_key: Key | None,
    limit: int,
    *,
    few: Sequence[Filter] | None = None,
    through: Filter | None = None,
) -> tuple[Any, ...]:
    """Return the statement for all runs that match, sorted.

    Where what is asked of runs' rows, and all of `few`, leave few, these are looked up before the rest is asked of
    each. Or it goes along the index of time, past all that are not in the set of `through`.
    """
    parameters = Parameters(query.ledger_id, query.now, probing=few is not None or through is not None)
    joins, columns = _columns(query, parameters)
    source, where = "run r", where_clause(query, parameters, filtered=few is None)
    if few is not None:
        if few:
            where += f" and r.run_id = any(array({intersection(few, parameters)}))"
        source = f"(select * from run r where {where}{parameters.fence}) r"  # noqa: S608
        where = "true" if query.filter is None else condition(query.filter, parameters)
    if through is not None:
        where += f" and {within(through, parameters)}"
    if after_key is not None:
        where += f" and {after(columns, after_key.values, after_key.run_id, parameters)}"
    selected = "".join(f", {one.expression} as k{n}" for n, one in enumerate(columns))
    names = [f"k{n}" for n in range(len(columns))]
    order = _order(columns, names, "r.run_id")
    text = f"select r.run_id{selected} from {source}{joins} where {where} order by {order} limit {int(limit)}"  # noqa: S608
    return _page(text, columns, names), *parameters.values


def intersection(parts: Sequence[Filter], parameters: Parameters) -> str:
    """Return the statement for the ids of all runs that comparisons of contents leave together."""
    return " intersect ".join(f"({as_set(one, parameters)})" for one in parts)


def walking(query: Query, after_key: Key | None, limit: int, mode: str | None) -> tuple[Any, ...] | None:
    """Return the statement along the index of the sort key; None where there is none, or it leads no further."""
    if len(query.sort) > 1:
        return None  # many runs may share the first key
    parameters = Parameters(query.ledger_id, query.now, probing=True)
    key = query.sort[0]
    where = where_clause(query, parameters, filtered=False)
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
    wanted = parameters.add(limit, "int")  # no part of the text, so that going on for less has the same plan
    text = f"select r.run_id{listed} from ({walked}) r where {matches} order by {outer} limit {wanted}"  # noqa: S608
    return _page(text, columns[:1], names), *parameters.values


def _page(found: str, columns: Sequence[Ordered], names: Sequence[str]) -> str:
    """Return the statement for what is stored of the runs that another one finds, in its order."""
    stored = f"select {', '.join(STORED)} from run where run_id = f.run_id offset 0"  # noqa: S608
    costs = "select state as credits from run_credit where run_id = f.run_id offset 0"
    keys = "".join(f", f.{name}" for name in names)
    return (
        f"select r.*, c.credits{keys} from ({found}) f cross join lateral ({stored}) r"  # noqa: S608
        f" left join lateral ({costs}) c on true order by {_order(columns, names[: len(columns)], 'f.run_id')}"
    )


def grouping(query: Query, by: Field, after_group: Group | None, limit: int) -> tuple[Any, ...]:
    """Return the statement for the groups of runs that match."""
    parameters = Parameters(query.ledger_id, query.now)
    join, columns = ordered(by, 0, parameters, every=True)
    where = where_clause(query, parameters)
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
