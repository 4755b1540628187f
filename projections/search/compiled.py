"""Filters as SQL. Everything that a user wrote becomes a parameter; the text is made of our own names only.

The condition is one over `r`, a row of `run` or what was selected of it; facets and metrics are looked up by its id.
What a run does not have makes a comparison false, never NULL, so that NOT means what it says.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from projections.search.facets import PRIMARY, searchable
from projections.search.fields import COLUMNS, NUMBER, TEXT, TIME, TRUTH, Column, Facet, Field, Metric
from projections.search.filters import Absent, And, Compare, Filter, In, Like, Literal, Not, Or

SINGLE: Final[Mapping[str, str]] = {TEXT: "text", NUMBER: "float8", TIME: "timestamptz", TRUTH: "boolean"}
"""Postgres' types by kind of value."""

OPERATORS: Final[Mapping[str, str]] = {"=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

_EXPRESSIONS: Final[Mapping[str, str]] = {
    **{name: f"r.{name}" for name in COLUMNS},
    "name": 'r.name collate "C"',
    "external_id": 'r.external_id collate "C"',
    "id": 'r.run_id::text collate "C"',
    "epoch": "r.epoch::float8",
    "sweep": 'r.sweep_id::text collate "C"',
    "trial": "r.trial::float8",
    "duration": "extract(epoch from coalesce(r.ended_at, {now}) - r.started_at)::float8",
    "workflow": '(select w.name collate "C" from workflow w where w.workflow_id = r.workflow_id)',
    "worker": '(select w.name collate "C" from worker w where w.worker_id = r.worker_id)',
}
_NEVER_NULL: Final = frozenset({"status", "created_at", "archived"})
"""For these a plain condition is left, which an index can serve."""

_METRIC_VALUES: Final = {"last": "m.last", "min": "m.min", "max": "m.max", "count": "m.count::float8"}
METRIC_IS_THERE: Final = {
    "last": "m.last <> 'NaN'",
    "min": "m.min is not null",
    "max": "m.max is not null",
    "count": "true",
}


class Parameters:
    """The values of a statement; the first is the ledger.

    Where it is `probing`, each run is looked up by itself; else the planner may join sets.
    """

    def __init__(self, ledger_id: UUID, now: datetime, *, probing: bool = False) -> None:
        self.fence = " offset 0" if probing else ""
        self.values: list[Any] = [ledger_id]
        self._now = now
        self._now_is = ""

    def add(self, value: Any, kind: str) -> str:
        """Take a value and return how the text refers to it."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def expression(self, column: str) -> str:
        """Return what a column of a run is in SQL."""
        text = _EXPRESSIONS[column]
        if "{now}" in text:
            self._now_is = self._now_is or self.add(self._now, "timestamptz")
            text = text.replace("{now}", self._now_is)
        return text


def condition(tree: Filter, parameters: Parameters) -> str:
    """Return a filter as an SQL condition over `r`."""
    match tree:
        case And() | Or():
            word = " and " if isinstance(tree, And) else " or "
            return f"({word.join(condition(part, parameters) for part in tree.parts)})"
        case Not():
            return f"not {condition(tree.inner, parameters)}"
        case Absent():
            there = _holds(tree.field, None, parameters)
            return there if tree.negated else f"not {there}"
        case Compare(operator="!="):
            return _present_but(msgspec.structs.replace(tree, operator="="), parameters)
        case In(negated=True) | Like(negated=True):
            return _present_but(msgspec.structs.replace(tree, negated=False), parameters)
        case _:
            return _holds(tree.field, tree, parameters)


def _present_but(tree: Compare | In | Like, parameters: Parameters) -> str:
    there = _holds(tree.field, None, parameters)
    return f"({there} and not {_holds(tree.field, tree, parameters)})"


def _holds(wanted: Field, test: Compare | In | Like | None, parameters: Parameters) -> str:
    """Return that a field's value passes a test; without one, that there is a value."""
    match wanted:
        case Column():
            return _column_holds(wanted, test, parameters)
        case Facet():
            passes = f" and {_facet_passes(test, parameters)}" if test else ""
            return f"exists ({_facet(wanted.key, parameters)}{passes}{parameters.fence})"
        case Metric(of="best"):
            modes = [
                f"({primary(wanted.name, mode, parameters)} and {_holds(Metric(wanted.name, mode), test, parameters)})"
                for mode in PRIMARY
            ]
            return f"({' or '.join(modes)})"
        case Metric():
            passes = f" and {_passes(_METRIC_VALUES[wanted.of], NUMBER, test, parameters)}" if test else ""
            name = parameters.add(wanted.name, "text")
            return (
                "exists (select from metric_summary m where m.ledger_id = $1 and m.run_id = r.run_id"
                f" and m.name = {name} and {METRIC_IS_THERE[wanted.of]}{passes}{parameters.fence})"
            )


def _column_holds(wanted: Column, test: Compare | In | Like | None, parameters: Parameters) -> str:
    value = parameters.expression(wanted.name)
    if wanted.name == "workflow" and (isinstance(test, In) or (isinstance(test, Compare) and test.operator == "=")):
        given = test.values if isinstance(test, In) else (test.value,)
        names = parameters.add(list(given), "text[]")
        return (
            "exists (select from workflow w where w.workflow_id = r.workflow_id"
            f" and (w.name = any({names}) or w.workflow_id::text = any({names})))"
        )
    if test is None:
        return f"({value} is not null)"
    passes = _passes(value, wanted.kind, test, parameters)
    return f"({passes})" if wanted.name in _NEVER_NULL else f"(({passes}) is true)"


def _facet(key: str, parameters: Parameters) -> str:
    return (
        "select from run_facet f where f.ledger_id = $1 and f.run_id = r.run_id"
        f" and f.key = {parameters.add(key, 'text')}"
    )


def primary(name: str, mode: str, parameters: Parameters) -> str:
    """Return that a metric is the run's primary one, with this mode."""
    named = f"f.text = {parameters.add(searchable(name), 'text')}"
    return f"exists ({_facet(PRIMARY[mode], parameters)} and {named}{parameters.fence})"


def _facet_passes(test: Compare | In | Like, parameters: Parameters) -> str:
    """Return a test of a facet; numbers are compared with numbers, texts with texts."""
    match test:
        case Like():
            return _passes("f.text", "text", test, parameters)
        case Compare():
            value = _sought(test.value)
            side = "number" if isinstance(value, float) else "text"
            return _passes(f"f.{side}", side, msgspec.structs.replace(test, value=value), parameters)
        case In():
            values = [_sought(value) for value in test.values]
            numbers = tuple(value for value in values if isinstance(value, float))
            texts = tuple(value for value in values if isinstance(value, str))
            passing = []
            if numbers:
                passing.append(_passes("f.number", NUMBER, In(test.field, numbers), parameters))
            if texts:
                passing.append(_passes("f.text", TEXT, In(test.field, texts), parameters))
            return f"({' or '.join(passing)})"


def _sought(value: Literal) -> float | str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return float(value) if isinstance(value, int | float) else searchable(str(value))


def _passes(value: str, kind: str, test: Compare | In | Like, parameters: Parameters) -> str:
    match test:
        case Compare():
            return f"{value} {OPERATORS[test.operator]} {parameters.add(test.value, SINGLE[kind])}"
        case In():
            return f"{value} = any({parameters.add(list(test.values), f'{SINGLE[kind]}[]')})"
        case Like():
            return f"{value} like {parameters.add(test.pattern, 'text')}"


def as_set(tree: Filter, parameters: Parameters) -> str | None:
    """Return the ids of all runs that a filter lets through as a statement over indexes of contents alone, or None."""
    match tree:
        case And() | Or():
            parts = [as_set(part, parameters) for part in tree.parts]
            word = " intersect " if isinstance(tree, And) else " union "
            return None if None in parts else word.join(f"({part})" for part in parts)
        case Not() | Absent(negated=False):
            return None
        case Absent():
            return _set(tree.field, None, parameters)
        case Compare(operator="!=") | In(negated=True) | Like(negated=True):
            changes = {"operator": "="} if isinstance(tree, Compare) else {"negated": False}
            every = _set(tree.field, None, parameters)
            some = _set(tree.field, msgspec.structs.replace(tree, **changes), parameters)
            return None if every is None or some is None else f"({every}) except ({some})"
        case _:
            return _set(tree.field, tree, parameters)


def within(tree: Filter, parameters: Parameters) -> str:
    """Return a filter that `as_set` knows as a condition over `r`: its set is read once, and each run looked up there.

    As a condition that may be unknown it cannot become a join, which would leave the order of the runs.
    """
    return f"(r.run_id in ({as_set(tree, parameters)})) is true"


def _set(wanted: Field, test: Compare | In | Like | None, parameters: Parameters) -> str | None:
    match wanted:
        case Column():
            return None
        case Facet():
            passes = f" and {_facet_passes(test, parameters)}" if test else ""
            key = parameters.add(wanted.key, "text")
            return f"select f.run_id from run_facet f where f.ledger_id = $1 and f.key = {key}{passes}"  # noqa: S608
        case Metric(of="best"):
            both = []
            for mode, key in PRIMARY.items():
                named = _set(Facet((key,)), Compare(Facet((key,)), "=", wanted.name), parameters)
                both.append(f"(({named}) intersect ({_set(Metric(wanted.name, mode), test, parameters)}))")
            return " union ".join(both)
        case Metric():
            passes = f" and {_passes(_METRIC_VALUES[wanted.of], NUMBER, test, parameters)}" if test else ""
            name = parameters.add(wanted.name, "text")
            there = f"m.ledger_id = $1 and m.name = {name} and {METRIC_IS_THERE[wanted.of]}"
            return f"select m.run_id from metric_summary m where {there}{passes}"  # noqa: S608
