"""A run's contents as facets: single texts and numbers under the names that filters use. Pure.

    {"config.lr": (0.1,), "config.optimizer.name": ("adam",), "tags": ("a", "b")}

Each event changes the facets that the events before it led to, so that however a history is cut into pages, the same
facets come out. A run has at most `MAX_FACETS` of them: of more, the first by name.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from events.run_events import (
    RunAliasSet,
    RunArchived,
    RunConfigUpdated,
    RunCreated,
    RunEvent,
    RunImported,
    RunNotesSet,
    RunPrimaryMetricSet,
    RunSummaryUpdated,
    RunTagsChanged,
    RunUnarchived,
)
from projections.search.fields import KEY_CHARACTERS, TEXT_CHARACTERS, quoted

MAX_FACETS: Final = 1_000

Scalar: TypeAlias = float | str
Facets: TypeAlias = Mapping[str, tuple[Scalar, ...]]

PRIMARY: Final[Mapping[str, str]] = {"max": "primary_max", "min": "primary_min"}
"""By mode, the facet that holds the primary metric's name."""

ARCHIVED: Final = "archived"
"""The facet of runs that are archived; all facets of such a run are marked, so that counts can leave them out."""

TYPES: Final = tuple(
    str(kind.__struct_config__.tag)
    for kind in (
        RunCreated,
        RunImported,
        RunConfigUpdated,
        RunSummaryUpdated,
        RunPrimaryMetricSet,
        RunTagsChanged,
        RunNotesSet,
        RunAliasSet,
        RunArchived,
        RunUnarchived,
    )
)
"""The events that change facets."""


def changed(facets: Facets, event: RunEvent) -> Facets:
    """Return the facets after an event."""
    after = dict(facets)
    match event:
        case RunCreated():
            _create(after, event)
        case RunImported():
            _create(after, event.created)
            _patch(after, "summary", event.summary)
            _name_primary(after, event.primary_metric or "", event.primary_mode or "")
            _set(after, ARCHIVED, "true" if event.archived else "")
        case RunConfigUpdated():
            _patch(after, "config", event.patch)
        case RunSummaryUpdated():
            _patch(after, "summary", event.patch)
        case RunTagsChanged():
            _set(after, "tags", *event.tags)
        case RunNotesSet():
            _set(after, "notes", event.notes)
        case RunAliasSet():
            _set(after, "alias", event.alias or "")
        case RunPrimaryMetricSet():
            _name_primary(after, event.name, event.mode)
        case RunArchived():
            _set(after, ARCHIVED, "true")
        case RunUnarchived():
            _set(after, ARCHIVED)
        case _:
            pass
    if len(after) > MAX_FACETS:
        return {key: after[key] for key in sorted(after)[:MAX_FACETS]}
    return after


def _create(facets: dict[str, tuple[Scalar, ...]], event: RunCreated) -> None:
    _patch(facets, "config", event.config)
    _set(facets, "path", event.path)
    _set(facets, "alias", event.alias or "")
    _set(facets, "notes", event.notes)
    _set(facets, "tags", *event.tags)


def _name_primary(facets: dict[str, tuple[Scalar, ...]], name: str, mode: str) -> None:
    for known, key in PRIMARY.items():
        _set(facets, key, name if known == mode else "")


def _set(facets: dict[str, tuple[Scalar, ...]], key: str, *texts: str) -> None:
    values = tuple(dict.fromkeys(searchable(text) for text in texts if text))
    if values:
        facets[key] = values
    else:
        facets.pop(key, None)


def _patch(facets: dict[str, tuple[Scalar, ...]], below: str, patch: Mapping[str, Any]) -> None:
    """Apply a JSON merge patch (RFC 7396) to the facets below a name."""
    for part, value in patch.items():
        key = f"{below}.{quoted(part)}".replace("\x00", "\ufffd")
        if isinstance(value, dict):
            facets.pop(key, None)
            _patch(facets, key, value)
            continue
        for old in [one for one in facets if one == key or one.startswith(f"{key}.")]:
            del facets[old]
        scalar = scalar_of(value)
        if scalar is not None and len(key) <= KEY_CHARACTERS:
            facets[key] = (scalar,)


def scalar_of(value: Any) -> Scalar | None:
    """Return a JSON value as it is searched for: a number, or a text; None where there is nothing to find."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case int() | float():
            number = float(value)
            return None if math.isnan(number) else number + 0.0  # no negative zero
        case str():
            return searchable(value)
        case _:
            return searchable(msgspec.json.encode(value).decode())


def searchable(text: str) -> str:
    """Return what is kept of a text for searching."""
    return text[:TEXT_CHARACTERS].replace("\x00", "\ufffd")


def rows(facets: Facets, *, archived: bool) -> Iterator[tuple[str, int, float | None, str | None, bool]]:
    """Yield the rows of facets: key, ordinal, number, text, whether the run is archived."""
    for key, values in facets.items():
        for ordinal, value in enumerate(values):
            yield key, ordinal, *((value, None) if isinstance(value, float) else (None, value)), archived
