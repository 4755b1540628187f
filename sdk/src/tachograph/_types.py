"""The shapes of the service's answers, as they come: plain dictionaries, known to the type checker.

Times are RFC 3339 strings in UTC, `_us` integers are microseconds since the epoch, credits are integer
micro-credits. A newer service may add keys.
"""

from array import array
from typing import Any, Final, Literal, NotRequired, TypedDict

Json = dict[str, Any]
Mode = Literal["min", "max"]


FINAL: Final = frozenset({"completed", "failed", "killed", "crashed", "deleted"})
"""The statuses in which a run's process is gone (a crashed one may still come back)."""


class Project(TypedDict):
    """A project; `id` or `name` stands for it in every call."""

    id: str
    name: str


class Workflow(TypedDict):
    """A recipe that runs are made of."""

    id: str
    name: str


class Progress(TypedDict):
    """What the program last reported, and the service's estimate of the rest."""

    done: float
    total: float | None
    unit: str
    remaining_seconds: float | None


class Failure(TypedDict):
    """Why a run failed, in the program's own words."""

    type: str
    message: str
    traceback: str


class Liveness(TypedDict):
    """How often a run beats, and after which silence it is unresponsive and crashed."""

    beat_seconds: float
    unresponsive_seconds: float
    crashed_seconds: float


class PrimaryMetric(TypedDict):
    """The metric that runs are compared by."""

    name: str
    mode: Mode


class Credits(TypedDict):
    """Micro-credits; `saved_micro` is what an early end left of the estimate."""

    consumed_micro: int
    estimate_micro: int | None
    saved_micro: int | None


class RunResource(TypedDict):
    """One run."""

    id: str
    project_id: str
    name: str
    session_id: str
    mode: Literal["managed", "tracked"]
    status: str
    version: int
    position: int
    epoch: int
    path: str
    alias: str | None
    tags: list[str]
    notes: str
    config: Json
    summary: Json
    workflow: Workflow | None
    command: list[str]
    environment: dict[str, str]
    resources: Json | None
    protection: bool
    liveness: Liveness
    worker: str | None
    stage: str | None
    progress: Progress | None
    primary_metric: PrimaryMetric | None
    kill_requested: bool
    cause: str | None
    exit_code: int | None
    error: Failure | None
    unresponsive: bool
    archived: bool
    created_at: str
    started_at: str | None
    ended_at: str | None
    training_seconds: float
    credits: Credits
    actions: list[str]
    synced: bool | None


class Heartbeat(TypedDict):
    """The answer to a heartbeat; `stop` asks the process to end."""

    epoch: int
    stop: bool
    stop_cause: str | None


class Accepted(TypedDict):
    """A batch is durable: how many points or lines, and the ledger position."""

    accepted: int
    position: int


class StartCommand(TypedDict):
    """One of a run's commands; its directory is relative to the run's."""

    argv: list[str]
    working_directory: str


class Volume(TypedDict):
    """What a run brings to `path`, or takes from it: `artifact:…` or `volume:…`."""

    place: str
    path: str


class Artifact(TypedDict):
    """A saved file of a run; `sha256` is hexadecimal."""

    artifact_id: str
    run_id: str
    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str
    caption: str
    position: int
    saved_at: str


class Claim(TypedDict):
    """What a worker needs to start the run it claimed."""

    run_id: str
    project_id: str
    epoch: int
    token: str
    command: list[str]
    commands: list[StartCommand]
    import_volumes: list[Volume]
    export_volumes: list[Volume]
    code: str | None
    environment: dict[str, str]
    secrets: list[str]
    name: str
    kill_requested: bool


class Worker(TypedDict):
    """A registered GPU worker."""

    id: str
    name: str


class Slot(TypedDict):
    """One device of a worker, such as `cpu:0`."""

    id: str
    kind: str


class MetricSummary(TypedDict):
    """One metric of a run, over all its points."""

    name: str
    count: int
    last: float | None
    min: float | None
    max: float | None
    best: NotRequired[float | None]
    first_step: int
    last_step: int
    last_time_us: NotRequired[int]
    min_step: NotRequired[int | None]
    max_step: NotRequired[int | None]
    nan_count: int


class ChartSeries(TypedDict):
    """One curve in buckets: true extremes, first, last and mean value, counts of all and of non-finite points."""

    metric: str
    x: list[float]
    min: list[float]
    max: list[float]
    first: list[float]
    last: list[float]
    mean: list[float]
    count: list[int]
    nan: list[int]
    posinf: list[int]
    neginf: list[int]
    sampled: bool
    points: int
    known: bool | None
    left_out: int


class _Columns(TypedDict):
    """What curves of runs and of groups have in common; columns are arrays of one length."""

    metric: str
    points: int
    left_out: int
    x: "array[Any]"
    x_first: "array[Any]"
    min: "array[float]"
    max: "array[float]"
    mean: "array[float]"
    count: "array[int]"
    nan: "array[int]"
    posinf: "array[int]"
    neginf: "array[int]"
    nonpositive: NotRequired["array[float]"]
    smoothed: NotRequired["array[float]"]


class RunCurve(_Columns):
    """One curve of one run of several; `known` is None in answers to `after`."""

    run: str
    known: bool | None
    sampled: bool
    first: "array[float]"
    last: "array[float]"


class Chart(TypedDict):
    """Curves of several runs: all up to the ledger position `position` counts, and nothing behind it."""

    series: list[RunCurve]
    position: int
    more_runs: NotRequired[bool]


class GroupCurve(_Columns):
    """One curve of a group of `members` runs; `runs` says how many of them have points in a bucket."""

    group: Any
    members: int
    runs: "array[int]"


class GroupChart(TypedDict):
    """Curves of groups of runs, the largest first; otherwise as `Chart`."""

    series: list[GroupCurve]
    position: int
    more_runs: NotRequired[bool]


class LogLine(TypedDict):
    """One line of a run's log; `stream` is `stdout`, `stderr` or `log`."""

    time_us: int
    stream: str
    text: str
    position: NotRequired[int]
    line: NotRequired[int]


class LogPage(TypedDict):
    """Log lines; `next` is the cursor of the following page, None at the end, `last` where they end anyhow."""

    lines: list[LogLine]
    next: str | None
    last: str | None


class Verification(TypedDict):
    """Whether a project's history is intact up to `position`, or which record is the first bad one."""

    verified: bool
    position: int
    first_bad: Json | None
    checked: int
    erased: int


class ImportedRun(TypedDict):
    """What became of a run of an archive: its id there and here, `new`, `continued`, `already there` or `refused`."""

    original: str
    run_id: str | None
    outcome: str
    why: str


class ImportReport(TypedDict):
    """What became of an import: runs counted by their outcome, and the first 1,000 of them; `why` it failed."""

    why: str
    counts: dict[str, int]
    points: int
    lines: int
    events: int
    artifacts: int
    runs: list[ImportedRun]
    refused: list[ImportedRun]
    definitions: list[Json]


class ImportJob(TypedDict):
    """An import: `uploading`, `waiting`, `running`, `finished` or `failed`; `offset` bytes of it are stored."""

    id: str
    state: str
    dry_run: bool
    offset: int
    bytes: int
    part_bytes: int
    runs_done: int
    runs: int
    rows_done: int
    created_at: str
    changed_at: str
    report: ImportReport | None
