"""A file of the archive becomes part of the record: it counts once its event is recorded, or it goes again."""

import asyncio
import logging
from typing import Final
from uuid import UUID

from events.commands import RecordArchive, RecordMerge
from events.errors import Rejected
from events.ledger import Ledger
from events.run_events import RunTelemetryArchived
from projections.archive.stores import Store
from projections.archive.writing import Files
from projections.execute import asked_by, execute
from workers.crashpoints import crash_point

log = logging.getLogger("tachograph.archiver")

ACTOR: Final = "system:archiver"


def described(
    files: Files, store: Store, kind: str, segment: UUID, path: str, first: int, last: int
) -> RunTelemetryArchived:
    """Return the event of a published file, which holds what stood at positions from `first` to `last`."""
    return RunTelemetryArchived(
        segment=segment,
        kind=kind,
        path=path,
        rows=files.data.rows,
        first_position=first,
        last_position=last,
        sha256=files.data.sha256,
        bytes=files.data.bytes,
        levels=files.level_file(store.root),
    )


async def put_on_record(
    ledger: Ledger, store: Store, ledger_id: UUID, run_id: UUID, command: RecordArchive | RecordMerge, files: Files
) -> bool:
    """Record a published file; False when the ledger refused it, and then the file is gone again."""
    try:
        await execute(ledger, ledger_id, run_id, command, asked_by(ACTOR))
    except Rejected as refusal:
        log.info("run %s: %s; removing %s", run_id, refusal, command.archived.path)
        await asyncio.to_thread(store.remove, files.paths(store.root))
        crash_point("archiver.after_refusal")
        return False
    return True
