"""What MLflow says of a run, as a run to bring here, whether its files or its server said it. Pure.

Parameters become the configuration, numbers where that loses nothing; tags stand as `key=value` where they fit, and all
of them below `mlflow` in the summary. The run's id is kept.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from events import codec
from events.ids import derived
from events.run_events import RunCompleted, RunCreated, RunFailed, RunImported, RunKilled
from events.types import Cause, Mode, Origin
from service.imports.described import check_described
from service.imports.incoming import Batch, End, Incoming, IncomingFile, Unreadable

SYSTEM: Final = "mlflow"
MAX_TEXT_BYTES: Final = 64 << 10
MAX_TAGS: Final = 100
MAX_TAG_CHARACTERS: Final = 128
_ENDS: Final[dict[str, Callable[[], End]]] = {
    "FINISHED": lambda: RunCompleted(epoch=1),
    "FAILED": lambda: RunFailed(epoch=1, cause=Cause.EXCEPTION),
    "KILLED": lambda: RunKilled(epoch=1, cause=Cause.KILLED_BY_USER),
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A run besides its metrics and files; times are milliseconds since the epoch."""

    run_id: str
    name: str
    status: str
    start_time: int | None
    end_time: int | None
    user: str
    experiment_id: str
    experiment: str
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]


def linked(inputs: int, outputs: int) -> list[str]:
    """Return what is left out of a run that read datasets and models, and made models."""
    said = {"inputs: datasets and models that it read": inputs, "outputs: models that it made": outputs}
    return [f"{what}, {count}" for what, count in said.items() if count]


def check_ended(status: str, stage: str, name: str) -> None:
    """Raise `Unreadable` for a run that is deleted, or goes on."""
    which = f"{name!r} is" if name else "it is"
    if stage != "active":
        raise Unreadable(f"{which} {stage} in MLflow")
    if status not in _ENDS:
        way = "import it when it has ended, or end it there (MlflowClient.set_terminated)"
        raise Unreadable(f"{which} {status} in MLflow; {way}")


def check_point(step: int, time_ms: int) -> None:
    """Raise `ValueError` for what is no step or no time here."""
    if abs(step) >= 1 << 63:
        raise ValueError(f"step {step} has over 64 bits")
    _moment(time_ms)


def incoming(
    told: Told,
    sha256: str,
    *,
    batches: Callable[[], Iterator[Batch]],
    files: Sequence[IncomingFile],
    left_out: Sequence[str],
) -> Incoming:
    """Return the run; `sha256` is of all that was read of it. Raises `Unreadable`, `Invalid` and `ValueError`."""
    own = [f"{name}={text}" for name, text in told.tags.items() if not name.startswith("mlflow.")]
    fitting = tuple(tag for tag in own if len(tag) <= MAX_TAG_CHARACTERS and tag.isprintable())[: MAX_TAGS - 1]
    config: dict[str, Any] = {name: as_number(text) for name, text in told.params.items()}
    created = RunCreated(
        name=told.name or told.tags.get("mlflow.runName") or told.run_id,
        session_id="",
        mode=Mode.TRACKED,
        external_id=told.run_id,
        tags=(SYSTEM, *dict.fromkeys(fitting)),
        notes=told.tags.get("mlflow.note.content", ""),
        config=config,
    )
    check_described(created)
    at = None if told.start_time is None else _moment(told.start_time)
    ended = at if told.end_time is None else _moment(told.end_time)
    about = {"experiment": told.experiment, "tags": told.tags, "user": told.user, "artifacts": told.artifact_uri}
    return Incoming(
        run_id=_id(told.run_id),
        imported=RunImported(
            origin=Origin(system=SYSTEM, run=told.run_id, project=told.experiment_id, sha256=sha256),
            created=created,
            summary={SYSTEM: {name: value for name, value in about.items() if value}},
            created_at=at,
            started_at=at,
            ended_at=ended,
        ),
        end=_ENDS[told.status](),
        batches=batches,
        files=files,
        left_out=left_out,
    )


def _moment(time_ms: int) -> datetime:
    """Return the moment of whole milliseconds since the epoch. Raises `ValueError` outside the years 1 to 9999."""
    try:
        return codec.from_microseconds(time_ms * 1_000)
    except OverflowError:
        raise ValueError(f"{time_ms} ms since 1970 is outside the years 1 to 9999") from None


def _id(run_id: str) -> UUID:
    try:
        return UUID(run_id)
    except ValueError:
        return derived("mlflow", run_id)


def as_number(text: str) -> int | float | str:
    """Return a parameter as a number where that says exactly the same."""
    try:
        whole = int(text)
        if str(whole) == text and abs(whole) < 1 << 63:
            return whole
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and repr(number) == text else text
