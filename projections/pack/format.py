"""The archive of a run or a project: a ZIP file of JSON and Parquet, everything stored as it is. Pure.

    runs/<run id>/events.jsonl       the lifecycle, an event a line, in order (`PastEvent`)
    runs/<run id>/metrics.parquet    points in the order in which they came (`METRICS`)
    runs/<run id>/logs.parquet       lines likewise (`LOGS`)
    runs/<run id>/artifacts/<sha256> contents, where they were asked for
    definitions.jsonl                workflows, sweeps, alert rules and webhooks of a project, by line (`Definition`)
    manifest.json                    the last file: what all of this is (`Manifest`)

Source: docs/decisions/0029-archives.md.
"""

from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

import msgspec
import pyarrow as pa

from events import cloudevents, codec
from events.ledger import Recorded
from events.types import Origin, PastEvent

FORMAT: Final = "tachograph-export"
TACHOGRAPH: Final = "tachograph"
PLAIN: Final = 1
DEFINED: Final = 2
"""With a project's definitions."""
CONVERTED: Final = 3
"""Of runs that another tracker had."""
FORMAT_VERSION: Final = CONVERTED
"""The newest; an archive has the oldest version that can say what is in it, so that older releases read it, too."""
MANIFEST: Final = "manifest.json"
DEFINITIONS: Final = "definitions.jsonl"
MAX_DEFINITION_BYTES: Final = 4 << 20

DefinitionKind: TypeAlias = Literal["workflow", "sweep", "alert_rule", "webhook"]

_WORDS: Final = pa.dictionary(pa.int32(), pa.string())
_KEY: Final = [
    pa.field("epoch", pa.int32(), nullable=False),
    pa.field("source", _WORDS, nullable=False),
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
    pa.field("received_us", pa.int64(), nullable=False),
]
METRICS: Final = pa.schema(
    [
        *_KEY,
        pa.field("system", pa.bool_(), nullable=False),
        pa.field("metric", _WORDS, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("stage", _WORDS),
    ]
)
LOGS: Final = pa.schema(
    [
        *_KEY,
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("stream", _WORDS, nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""A batch is the rows of one (epoch, source, seq); `part` counts the events that it was recorded as."""


class File(msgspec.Struct, frozen=True):
    """A file of the archive; `sha256` is hexadecimal."""

    path: str
    bytes: int
    sha256: str


class SavedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact of a run; its content is in the archive, by its hash, where `content` says so."""

    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str
    caption: str
    saved_at: datetime
    content: bool


class ArchivedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the archive; `origin` is where it had been imported from."""

    run_id: UUID
    name: str
    status: str
    origin: Origin | None
    events: int
    points: int
    lines: int
    artifacts: list[SavedArtifact]
    files: list[File]

    @property
    def directory(self) -> str:
        """Below what its files lie."""
        return f"runs/{self.run_id}"


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow, a sweep, an alert rule or a webhook: what happened to it, in order."""

    kind: DefinitionKind
    id: UUID
    events: list[PastEvent]


class NotPacked(msgspec.Struct, frozen=True):
    """A definition that is not in the archive, and why."""

    kind: str
    id: UUID
    why: str


class LeftOut(msgspec.Struct, frozen=True):
    """A run that is not in the archive, and why."""

    run_id: UUID
    why: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive is: of which project, as of which position of its ledger (with the chain value there).

    Where its runs were in another tracker, `system` names that. Such an archive was made without a ledger: the events
    of each run are those of its import (`run.imported`, its end, `run.import_finished`), and are no history.
    """

    format: str
    version: int
    software: str
    exported_at: datetime
    project_id: UUID
    project: str
    description: str
    position: int
    chain: str
    system: str = TACHOGRAPH
    runs: list[ArchivedRun]
    left_out: list[LeftOut] = []
    definitions: File | None = None
    definitions_left_out: list[NotPacked] = []


def past_event(recorded: Recorded) -> PastEvent:
    """Return a recorded lifecycle event as another ledger is told of it."""
    return PastEvent(
        id=recorded.event_id,
        position=recorded.position,
        version=recorded.version or 0,
        type=recorded.type,
        schema_version=codec.EVENT_TYPES[recorded.type].schema_version,
        actor=recorded.actor,
        occurred_at=recorded.occurred_at,
        recorded_at=recorded.recorded_at,
        cause=recorded.cause,
        epoch=recorded.epoch,
        data=cloudevents.data(recorded),
    )
