"""The facets of runs, kept for searching: an asynchronous projection. See `projections.search.facets`."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from events.ledger import Fact
from events.sql import load
from projections.apply import Connection, older, present
from projections.search import facets
from projections.search.facets import Facets, Scalar

_DELETED: Final = "run.deleted"


class Search:
    """One row a run and facet, until the run is deleted."""

    name = "search"
    tables = ("run_facet",)
    types = (*facets.TYPES, _DELETED)
    page_events = 500

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Fold the page into the runs' facets and write those that differ."""
        deleted = {recorded.stream for recorded in events if recorded.type == _DELETED}
        if deleted:
            await connection.execute(load("projections.sql", "forget_facets"), ledger_id, list(deleted))
        told = await present(connection, ledger_id, [one for one in events if one.stream not in deleted])
        before = await _stored(connection, ledger_id, older(told))
        after = dict(before)
        for recorded in told:
            after[recorded.stream] = facets.changed(after.get(recorded.stream, {}), recorded.event())
        await _write(connection, ledger_id, before, after)


async def _stored(connection: Connection, ledger_id: UUID, runs: Sequence[UUID]) -> dict[UUID, Facets]:
    found: dict[UUID, dict[str, tuple[Scalar, ...]]] = {run_id: {} for run_id in runs}
    for row in await connection.fetch(load("projections.sql", "read_facets"), ledger_id, runs) if runs else ():
        value: Scalar = row["text"] if row["number"] is None else row["number"]
        mine = found[row["run_id"]]
        mine[row["key"]] = (*mine.get(row["key"], ()), value)
    return dict(found)


async def _write(
    connection: Connection, ledger_id: UUID, before: dict[UUID, Facets], after: dict[UUID, Facets]
) -> None:
    gone, new, marked = [], [], []
    for run_id, facets_after in after.items():
        facets_before, archived = before.get(run_id, {}), facets.ARCHIVED in facets_after
        if archived != (facets.ARCHIVED in facets_before):
            marked.append((run_id, archived))
        gone += [(run_id, key) for key, values in facets_before.items() if facets_after.get(key) != values]
        differing = {key: values for key, values in facets_after.items() if facets_before.get(key) != values}
        new += [(run_id, *row) for row in facets.rows(differing, archived=archived)]
    if gone:
        await connection.execute(load("projections.sql", "drop_facets"), ledger_id, *map(list, zip(*gone, strict=True)))
    if marked:
        await connection.execute(
            load("projections.sql", "mark_facets"), ledger_id, *map(list, zip(*marked, strict=True))
        )
    if new:
        await connection.execute(load("projections.sql", "write_facets"), ledger_id, *map(list, zip(*new, strict=True)))
