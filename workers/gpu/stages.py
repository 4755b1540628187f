"""What is done for a run before its first command and after its last: code and volumes in, outputs out."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from workers.gpu.outcome import Outcome, not_exported
from workers.gpu.records import RunRecord
from workers.gpu.volumes import Patience, Places, VolumeFailed

ARTIFACT = "artifact:"

InThread = Callable[..., Awaitable[object]]
"""Makes a blocking call in a thread and waits for it."""


class Stage(NamedTuple):
    """A stage of the preparation, as it is reported; `fraction` of all stages lie behind it."""

    stage: str
    message: str = ""
    fraction: float | None = None


async def prepare(
    record: RunRecord, places: Places, patience: Patience, say: Callable[[Stage], None], in_thread: InThread
) -> None:
    """Fetch the code snapshot, bring in the volumes. Raises `VolumeFailed`, `Interrupted`.

    A code reference that is no artifact of ours is a note for people: nothing is fetched for it.
    """
    code = record.code if record.code is not None and record.code.startswith(ARTIFACT) else None
    total = len(record.import_volumes) + (code is not None)
    done = 0
    await in_thread(places.clear)
    if code is not None:
        say(Stage("code", code, done / total))
        await in_thread(places.fetch_code, code, patience)
        done += 1
    for volume in record.import_volumes:
        say(Stage("volume", f"{volume.place} to {volume.path or '.'}", done / total))
        await in_thread(places.bring, volume, patience)
        done += 1


async def take_out(
    record: RunRecord, ended: Outcome, places: Places, patience: Patience, in_thread: InThread
) -> Outcome:
    """Take out what is to be kept; returns how the run ended all in all. Raises `Interrupted`.

    A run that completed and whose outputs could not be stored has failed; of a run that failed, what is there is kept.
    """
    failures = []
    for volume in record.export_volumes:
        try:
            await in_thread(places.take, volume, patience)
        except VolumeFailed as error:
            failures.append(str(error))
    if failures and ended.status == "completed":
        return not_exported(ended, "; ".join(failures))
    return ended
