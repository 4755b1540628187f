"""Filters as trees, and as the text that says them."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from events.types import Status
from projections.search.fields import COLUMNS, MEASURES, NUMBER, TEXT, TIME, TRUTH, Column, Facet, Field, Metric
from projections.search.filters import COMPARATORS, Absent, And, Compare, Filter, In, Like, Not, Or

NAMES = ("a", "adam", "learning rate", "c.d", "`", "b")
WORDS = st.sampled_from(["x", "adam", "it's", "%", "", "a", "true", "best", "run", "loss", "x3", "ü" * 300])
NUMBERS = st.sampled_from([0.1, 1.0, -1.0, 0.0, 2.0, 1e300, 0.5])
TIMES = st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, 12, 30, tzinfo=UTC)])
PATTERNS = st.sampled_from(["%", "x%", "_", "%a%", "it_s", "\\%", "run %", "ü%", ""])

DOCUMENTS = st.builds(
    lambda root, parts: Facet((root, *parts)),
    st.sampled_from(["config", "summary"]),
    st.lists(st.sampled_from([*NAMES, "acc"]), min_size=1, max_size=2),
)
ATTRIBUTES = st.sampled_from([Facet((name,)) for name in ("tags", "alias", "path", "notes")])
METRICS = st.builds(Metric, st.sampled_from(["loss", "acc", "lr", "none.of/these"]), st.sampled_from(MEASURES))
PLAIN = st.sampled_from([Column(name) for name in COLUMNS if name != "status"])
FIELDS: st.SearchStrategy[Field] = st.one_of(DOCUMENTS, ATTRIBUTES, METRICS, PLAIN)

VALUES = {TEXT: WORDS, NUMBER: NUMBERS, TIME: TIMES, TRUTH: st.booleans()}


def _values(field: Field) -> st.SearchStrategy[Any]:
    match field:
        case Facet():
            return WORDS | NUMBERS | st.booleans()
        case Metric():
            return NUMBERS
        case Column():
            return VALUES[field.kind]


@st.composite
def leaves(draw: st.DrawFn) -> Filter:
    if draw(st.integers(0, 7)) == 0:
        statuses = tuple(sorted(draw(st.sets(st.sampled_from(Status), min_size=1, max_size=3)) - {Status.ABSENT}))
        return In(Column("status"), statuses or (Status.RUNNING,), draw(st.booleans()))
    field = draw(FIELDS)
    match draw(st.integers(0, 4)):
        case 0:
            return Absent(field, draw(st.booleans()))
        case 1:
            values = draw(st.lists(_values(field), min_size=1, max_size=3))
            return In(field, tuple(dict.fromkeys(values)), draw(st.booleans()))
        case 2 if isinstance(field, Facet) or (isinstance(field, Column) and field.kind == TEXT):
            return Like(field, draw(PATTERNS), draw(st.booleans()))
        case _:
            value = draw(_values(field))
            operators = COMPARATORS[:2] if isinstance(value, bool) else COMPARATORS
            return Compare(field, draw(st.sampled_from(operators)), value)


def _joined(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(Not, inner) | st.builds(And, parts) | st.builds(Or, parts)


FILTERS: st.SearchStrategy[Filter] = st.recursive(leaves(), _joined, max_leaves=6)


def said(tree: Filter) -> str:
    """Return a tree as a filter's text."""
    match tree:
        case And() | Or():
            word = " AND " if isinstance(tree, And) else " or "
            return word.join(f"({said(part)})" for part in tree.parts)
        case Not():
            return f"NOT ({said(tree.inner)})"
        case Absent():
            return f"{_name(tree.field)} IS {'NOT ' if tree.negated else ''}NULL"
        case In():
            values = ",".join(_literal(value) for value in tree.values)
            return f"{_name(tree.field)} {'not ' if tree.negated else ''}in ({values})"
        case Like():
            return f"{_name(tree.field)} {'NOT ' if tree.negated else ''}LIKE {_literal(tree.pattern)}"
        case Compare():
            return f"{_name(tree.field)}{tree.operator}{_literal(tree.value)}"


def _name(field: Field) -> str:
    match field:
        case Column():
            return field.name
        case Metric():
            return f"metrics.`{field.name}`.{field.of}"
        case Facet():
            return ".".join([field.parts[0], *("`" + part.replace("`", "``") + "`" for part in field.parts[1:])])


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, datetime):
        return f"'{value.isoformat()}'"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
