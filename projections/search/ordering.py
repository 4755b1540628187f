"""Sort keys as SQL: joins that fetch them, columns to order by, and the condition that continues after a row. Pure.

    sort=-metrics.val/acc.best,config.lr,created_at       '-' is descending; what a run does not have comes last

Of a facet numbers come first, then texts. Ties are broken by the run's id, so that an order is total and stable.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from projections.search.compiled import METRIC_IS_THERE, SINGLE, Parameters
from projections.search.facets import PRIMARY, searchable
from projections.search.fields import NUMBER, TEXT, TIME, TRUTH, Column, Facet, Field, Metric
from projections.search.filters import parse_field
from projections.search.tokens import MAX_CHARACTERS, FilterError

MAX_KEYS: Final = 8
TYPES: Final[Mapping[str, type]] = {NUMBER: float, TEXT: str, TIME: datetime, TRUTH: bool}


class SortKey(msgspec.Struct, frozen=True):
    """A field, and which way."""

    field: Field
    descending: bool = False


NEWEST_FIRST: Final = (SortKey(Column("created_at"), descending=True),)


class Ordered(msgspec.Struct, frozen=True):
    """An SQL expression to order by; `kind` is its type's."""

    expression: str
    kind: str
    descending: bool
    never_null: bool = False

    @property
    def direction(self) -> str:
        """Which way, and where NULL goes."""
        return ("desc" if self.descending else "asc") + ("" if self.never_null else " nulls last")


def parse_sort(text: str) -> tuple[SortKey, ...]:
    """Return the keys that a list of names with signs says. Raises `FilterError`."""
    keys = []
    for part in split(text):
        name = part.strip()
        descending = name.startswith("-")
        keys.append(SortKey(parse_field(name.removeprefix("-").removeprefix("+")), descending))
    if len(keys) > MAX_KEYS:
        raise FilterError(0, f"{len(keys)} keys", (f"at most {MAX_KEYS}",))
    return tuple(keys)


def split(text: str) -> list[str]:
    """Return the parts between commas that are not in quotes."""
    if len(text) > MAX_CHARACTERS:
        raise FilterError(MAX_CHARACTERS, "more", (), f"there may be at most {MAX_CHARACTERS} characters")
    parts, start, quote = [], 0, ""
    for at, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "`\"'":
            quote = sign
        elif sign == ",":
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def kinds(keys: Sequence[SortKey]) -> list[type]:
    """Return the types of the values that runs are sorted by."""
    found: list[type] = []
    for key in keys:
        match key.field:
            case Column():
                found.append(TYPES[key.field.kind])
            case Facet():
                found += [float, str]
            case Metric():
                found.append(float)
    return found


def ordered(
    field: Field, index: int, parameters: Parameters, *, descending: bool = False, every: bool = False
) -> tuple[str, list[Ordered]]:
    """Return the joins that fetch a field, and what to order by. With `every`, all of several values.

    Each join is with a range of one index that holds all that is wanted of it.
    """
    alias = f"s{index}"
    match field:
        case Column():
            never_null = field.name in {"created_at", "status", "archived"}
            return "", [Ordered(parameters.expression(field.name), field.kind, descending, never_null)]
        case Facet():
            joins, columns = "", []
            key = parameters.add(field.key, "text")
            first = "" if every or field.parts != ("tags",) else " and {0}.ordinal = 0"
            for kind in (NUMBER, TEXT):
                one = f"{alias}{kind[0]}"
                there = f"{_of_run(one)} and {one}.key = {key} and {one}.{kind} is not null{first.format(one)}"
                joins += _joined("run_facet", one, there, parameters)
                columns.append(Ordered(f"{one}.{kind}", kind, descending))
            return joins, columns
        case Metric(of="best"):
            joins, cases = "", ""
            for mode in PRIMARY:
                one, named = f"{alias}{mode}", f"{alias}{mode}p"
                there = f"{_of_run(one)} and {_named(one, field.name, mode, parameters)}"
                joins += _joined("metric_summary", one, there, parameters)
                there = f"{_of_run(named)} and {_primary(named, field.name, mode, parameters)}"
                joins += _joined("run_facet", named, there, parameters)
                cases += f" when {named}.run_id is not null then {one}.{mode}"
            return joins, [Ordered(f"case{cases} end", NUMBER, descending)]
        case Metric():
            value = f"{alias}.count::float8" if field.of == "count" else f"{alias}.{field.of}"
            there = f"{_of_run(alias)} and {_named(alias, field.name, field.of, parameters)}"
            return _joined("metric_summary", alias, there, parameters), [Ordered(value, NUMBER, descending)]


def leading(key: SortKey, parameters: Parameters, mode: str | None = None) -> tuple[str, str, list[Ordered]] | None:
    """Return the table `s0` whose index leads through the runs that have a key, its condition, and its order.

    `mode` is the one with which every run has the primary metric. Of a facet only numbers are led through. None where
    there is no such index.
    """
    field = key.field
    of: str
    match field:
        case Facet():
            there = f"s0.key = {parameters.add(field.key, 'text')} and s0.ordinal = 0 and s0.number is not null"
            columns = [
                Ordered("s0.number", NUMBER, key.descending, never_null=True),
                Ordered("s0.text", TEXT, key.descending),
            ]
            return "run_facet", f"s0.ledger_id = $1 and {there}", columns
        case Metric(of="last" | "min" | "max"):
            of = field.of
            there = _named("s0", field.name, of, parameters)
        case Metric(of="best") if mode is not None:
            primary = _primary("p", field.name, mode, parameters)
            of = mode
            there = (
                f"{_named('s0', field.name, of, parameters)} and exists"
                f" (select from run_facet p where p.ledger_id = $1 and p.run_id = s0.run_id and {primary} offset 0)"
            )
        case _:
            return None
    column = Ordered(f"s0.{of}", NUMBER, key.descending, never_null=True)
    return "metric_summary", f"s0.ledger_id = $1 and {there}", [column]


def _joined(table: str, alias: str, there: str, parameters: Parameters) -> str:
    if parameters.fence:
        return f" left join lateral (select * from {table} {alias} where {there}{parameters.fence}) {alias} on true"  # noqa: S608
    return f" left join {table} {alias} on {there}"


def _of_run(alias: str) -> str:
    return f"{alias}.ledger_id = $1 and {alias}.run_id = r.run_id"


def _named(alias: str, name: str, of: str, parameters: Parameters) -> str:
    return f"{alias}.name = {parameters.add(name, 'text')} and {METRIC_IS_THERE[of].replace('m.', f'{alias}.')}"


def _primary(alias: str, name: str, mode: str, parameters: Parameters) -> str:
    """Return the condition that a facet says that this is the run's primary metric, in this mode."""
    return f"{alias}.key = '{PRIMARY[mode]}' and {alias}.text = {parameters.add(searchable(name), 'text')}"


def after(columns: Sequence[Ordered], values: Sequence[object], run_id: object, parameters: Parameters) -> str:
    """Return the condition that a row comes after one with these values and this id."""
    last = columns[-1].descending
    condition = f"r.run_id {'<' if last else '>'} {parameters.add(run_id, 'uuid')}"
    if len(columns) == 1 and columns[0].never_null:
        sign = "<" if last else ">"
        given = parameters.add(values[0], SINGLE[columns[0].kind])
        return f"({columns[0].expression}, r.run_id) {sign} ({given}, ${len(parameters.values) - 1}::uuid)"
    for column, value in zip(reversed(columns), reversed(values), strict=True):
        if value is None:
            condition = f"({column.expression} is null and {condition})"
            continue
        given = parameters.add(value, SINGLE[column.kind])
        beyond = f"{column.expression} {'<' if column.descending else '>'} {given}"
        condition = f"({beyond} or {column.expression} is null or ({column.expression} = {given} and {condition}))"
    return condition
