"""Tachograph's client: record training runs, and read what was recorded.

    import tachograph

    with tachograph.init(project="digits", config={"lr": 0.1}) as run:
        for epoch in range(10):
            run.log({"train/loss": train()}, stage=f"epoch_{epoch}")
            run.progress(epoch + 1, 10)

`init` opens a run, `Run` takes what the program reports, `Client` reads and commands. Logging never waits for
the network and never fails on its account. The errors, as a tree:

    Error
    ├── NotConfigured       no URL or no API key was found
    ├── ConnectionFailed    the service was not reached, or cut the call off; retrying is safe
    ├── RunFinished         a write to a run whose `finish()` was called
    ├── ImportFailed        an archive that cannot be imported: damaged, cut, or of a later format
    └── Problem             the service refused: `status`, `detail`, `state`, `allowed`, `limit`, `errors`
        ├── Invalid (400, 422)   Unauthorized (401)   Forbidden (403)   NotFound (404)
        └── Conflict (409)   Gone (410)   TooLarge (413)   TooManyRequests (429)   ServerError (5xx)

    Stopped(KeyboardInterrupt)    raised in the main thread when the run is asked to stop
"""

from tachograph._client import Client
from tachograph._errors import (
    Conflict,
    ConnectionFailed,
    Error,
    Forbidden,
    Gone,
    ImportFailed,
    Invalid,
    NotConfigured,
    NotFound,
    Problem,
    RunFinished,
    ServerError,
    Stopped,
    TooLarge,
    TooManyRequests,
    Unauthorized,
)
from tachograph._init import init, set_enabled
from tachograph._recorder import Delivery
from tachograph._run import Document, Run
from tachograph._stream import ServerEvent
from tachograph._sweeps import Sweep, Trial
from tachograph._sync import Synced, sync
from tachograph._types import (
    FINAL,
    Accepted,
    Artifact,
    Chart,
    ChartSeries,
    Claim,
    Failure,
    GroupChart,
    GroupCurve,
    ImportedRun,
    ImportJob,
    ImportReport,
    Liveness,
    LogLine,
    LogPage,
    MetricSummary,
    Project,
    RunCurve,
    RunResource,
    Slot,
    Verification,
    Worker,
    Workflow,
)
from tachograph._words import state_as

__version__ = "0.1.0"

__all__ = [
    "FINAL",
    "Accepted",
    "Artifact",
    "Chart",
    "ChartSeries",
    "Claim",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Delivery",
    "Document",
    "Error",
    "Failure",
    "Forbidden",
    "Gone",
    "GroupChart",
    "GroupCurve",
    "ImportFailed",
    "ImportJob",
    "ImportReport",
    "ImportedRun",
    "Invalid",
    "Liveness",
    "LogLine",
    "LogPage",
    "MetricSummary",
    "NotConfigured",
    "NotFound",
    "Problem",
    "Project",
    "Run",
    "RunCurve",
    "RunFinished",
    "RunResource",
    "ServerError",
    "ServerEvent",
    "Slot",
    "Stopped",
    "Sweep",
    "Synced",
    "TooLarge",
    "TooManyRequests",
    "Trial",
    "Unauthorized",
    "Verification",
    "Worker",
    "Workflow",
    "init",
    "set_enabled",
    "state_as",
    "sync",
]
