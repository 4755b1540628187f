"""The statement that records a group, whose outcome `verdicts_of` reads."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from events.commit import InlineRow, Prepared

APPEND: Final = "select ledger.append($1, $2, $3::ledger.sealed_event[], $4, $5, $6)"
APPEND_ONE: Final = "select ledger.append_one($1, $2, $3::ledger.sealed_event, $4)"


def recording(ledger_id: UUID, group: Sequence[Prepared]) -> tuple[Any, ...]:
    """Return the statement that records a group, and its arguments."""
    inline: dict[str, list[InlineRow]] = {}
    states = []
    start = 1
    for one in group:
        for name, rows in one.inline.items():
            inline.setdefault(name, []).extend(InlineRow(row.event + start, row.row) for row in rows)
        start += len(one.events)
        if one.state is not None:
            version = (one.expected or 0) + len(one.events)
            states.append((start - 1, one.stream, version, one.state.progressed, one.state.state))
    if start == 2 and not inline and group[0].wrapped_key is None:
        return APPEND_ONE, ledger_id, group[0].columns, group[0].events[0], states[0] if states else None
    return (
        APPEND,
        ledger_id,
        [one.columns for one in group],
        [event for one in group for event in one.events],
        states,
        list(inline),
        [msgspec.json.encode(rows).decode() for rows in inline.values()],
    )
