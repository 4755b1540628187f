"""`python -m service.imports.process`: one import in a process of its own, which gives way to the API.

It has the environment of the API process that starts it, hears on its standard input what it is to carry out, and ends
when that ends. SIGTERM has it give the import back.
"""

import asyncio
import logging
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec
import pyarrow as pa

from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import from_environment
from projections.import_jobs import Claimed
from projections.storage import artifact_limits
from projections.storage.objects import ObjectStore
from projections.storage.uploads import Uploads
from service.imports.carrier import AWAY, Carrier
from service.imports.incoming import said

log = logging.getLogger("tachograph.imports")

MEMORY_BYTES: Final = 2 << 30
"""What an import may take; an archive of two million points is read in 0.2 GiB."""
NICENESS: Final = 10
AWAY_STATUS: Final = os.EX_TEMPFAIL
"""The exit status where the database is away: that was no attempt."""


class Taken(msgspec.Struct, frozen=True):
    """What is to be carried out, and for whom it is held."""

    job: Claimed
    holder: UUID


def main() -> int:
    """Carry out the import that is named on the standard input; returns the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    taken = msgspec.json.decode(sys.stdin.buffer.readline(), type=Taken)
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pa.set_cpu_count(1)
    with suppress(asyncio.CancelledError):
        return asyncio.run(_carried(taken))
    return 0


async def _carried(taken: Taken) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    settings = from_environment()
    try:
        pool = await open_pool(settings.database_url, name="import", size=4)
        try:
            ledger = Ledger(pool, Keyring.from_file(settings.master_key))
            objects = ObjectStore.at(settings.object_store)
            uploads = Uploads(ledger, objects, artifact_limits.from_environment())
            await Carrier(ledger, objects, uploads).carry(taken.job, taken.holder)
        finally:
            await pool.close()
    except AWAY as error:
        log.warning("import %s waits: %s", taken.job.import_id, said(error))
        return AWAY_STATUS
    return 0


def _end_with_input() -> None:
    """End at once when the other side has gone; no buffer of Python's is locked meanwhile."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
