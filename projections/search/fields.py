"""What runs can be searched, sorted, grouped and shown by: the fields, their names, and their values in one run.

    status · name · id · external_id · mode · workflow · worker · archived · unresponsive · epoch
    sweep (its id) · trial (its number in the sweep)
    created_at · started_at · ended_at · status_since · duration (seconds, of an active run until now)
    tags · alias · path · notes
    config.<key>… · summary.<key>…          nested, e.g. config.optimizer.lr
    metrics.<name>.last|min|max|best|count  the best of the run's primary metric

A part of a name with other signs than letters, digits and `_ - / :` is quoted: config.`learning rate`. What is searched
of a text is its first `TEXT_CHARACTERS`; numbers are float64, NaN counts as missing; a list is its JSON.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec

from events.run import Run

TEXT_CHARACTERS: Final = 250
KEY_CHARACTERS: Final = 250

TEXT, NUMBER, TIME, TRUTH = "text", "number", "time", "truth"

COLUMNS: Final[Mapping[str, str]] = {
    "status": TEXT,
    "name": TEXT,
    "id": TEXT,
    "external_id": TEXT,
    "mode": TEXT,
    "workflow": TEXT,
    "worker": TEXT,
    "archived": TRUTH,
    "unresponsive": TRUTH,
    "epoch": NUMBER,
    "sweep": TEXT,
    "trial": NUMBER,
    "created_at": TIME,
    "started_at": TIME,
    "ended_at": TIME,
    "status_since": TIME,
    "duration": NUMBER,
}
"""What the run's own row tells, with its type."""

ATTRIBUTES: Final = ("tags", "alias", "path", "notes")
DOCUMENTS: Final = ("config", "summary")
MEASURES: Final = ("last", "min", "max", "best", "count")


class Column(msgspec.Struct, frozen=True):
    """A column of the run's own row; current at once."""

    name: str

    @property
    def kind(self) -> str:
        """Its type."""
        return COLUMNS[self.name]


class Facet(msgspec.Struct, frozen=True):
    """A text or number from the run's contents; `parts` lead to it: ("config", "optimizer", "lr"), ("tags",)."""

    parts: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name under which the search tables know it."""
        return ".".join(quoted(part) for part in self.parts)


class Metric(msgspec.Struct, frozen=True):
    """What a metric's points come to: `of` is last, min, max, best or count."""

    name: str
    of: str


Field: TypeAlias = Column | Facet | Metric


class UnknownFieldError(ValueError):
    """There is no such field; the message says which there are."""


def field(parts: Sequence[str]) -> Field:
    """Return the field that the parts of a name lead to. Raises `UnknownFieldError`."""
    root, rest = parts[0], tuple(parts[1:])
    if not rest and root in COLUMNS:
        return Column(root)
    if not rest and root in ATTRIBUTES:
        return Facet((root,))
    if root in DOCUMENTS:
        if not rest:
            raise UnknownFieldError(f"{root} needs a key: {root}.<key>")
        return Facet((root, *rest))
    if root == "metrics":
        if len(rest) < 2 or rest[-1] not in MEASURES:
            raise UnknownFieldError(f"a metric is metrics.<name>.{'|'.join(MEASURES)}")
        return Metric(".".join(rest[:-1]), rest[-1])
    known = ", ".join([*COLUMNS, *ATTRIBUTES, "config.<key>", "summary.<key>", "metrics.<name>.<measure>"])
    raise UnknownFieldError(f"there is no field {'.'.join(parts)!r}; there are {known}")


def quoted(part: str) -> str:
    """Return a part of a name so that parts joined by dots can be told apart."""
    return "`" + part.replace("`", "``") + "`" if not part or "." in part or "`" in part else part


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A run and what else is known of it: names that its ids stand for, and its metrics' summaries by name."""

    run_id: UUID
    run: Run
    workflow: str | None = None
    worker: str | None = None
    metrics: Mapping[str, Mapping[str, Any]] = {}
    now: datetime


def value_of(known: Known, wanted: Field) -> Any:
    """Return what a field of a run holds, whole; None where it holds nothing."""
    run = known.run
    match wanted:
        case Metric():
            return known.metrics.get(wanted.name, {}).get(wanted.of)
        case Facet():
            value: Any = getattr(run, wanted.parts[0])
            for part in wanted.parts[1:]:
                value = value.get(part) if isinstance(value, dict) else None
            return value
        case Column("id"):
            return str(known.run_id)
        case Column("workflow"):
            return known.workflow
        case Column("worker"):
            return known.worker
        case Column("sweep"):
            return str(run.trial.sweep) if run.trial else None
        case Column("trial"):
            return run.trial.number if run.trial else None
        case Column("duration"):
            end = run.ended_at or known.now
            return (end - run.started_at).total_seconds() if run.started_at else None
        case Column():
            return getattr(run, wanted.name)
