"""The service's routes as methods: reading, commanding, and what a GPU worker reports."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tachograph._archives import Archives
from tachograph._artifacts import Artifacts
from tachograph._calls import route, subject, without_none
from tachograph._charts import Charts
from tachograph._encoding import finite_or_named
from tachograph._errors import Conflict, NotFound
from tachograph._stream import ServerEvent, follow
from tachograph._sweeps import Sweeps
from tachograph._types import (
    FINAL,
    Accepted,
    Claim,
    Failure,
    Heartbeat,
    Json,
    LogLine,
    LogPage,
    MetricSummary,
    Mode,
    Project,
    RunResource,
    Slot,
    Verification,
    Worker,
    Workflow,
)


class Client(Archives, Artifacts, Charts, Sweeps):
    """A connection to the service; safe for many threads, and after a fork.

    Methods raise the errors of `tachograph.Error`'s tree. Attempts that failed in passing (no connection,
    429, 5xx) are repeated for up to `retry_seconds`; every change carries an idempotency key, so that a
    repeat never does it twice. Where a project is asked for, its name or id will do; a run is its id, or
    `ext:<project>:<external id>`.
    """

    # Projects and workflows

    def create_project(self, name: str, description: str | None = None) -> Project:
        """Create a project; its name is unique in the organisation."""
        return self._post(Project, "/projects", name=name, description=description)

    def ensure_project(self, name: str) -> Project:
        """Return the project, created if there is none of this name."""
        try:
            return self.project(name)
        except NotFound:
            pass
        try:
            return self.create_project(name)
        except Conflict:
            return self.project(name)  # somebody else was faster

    def project(self, project: str) -> Project:
        """Return one project."""
        return self._ask(Project, "GET", route("projects", project))

    def projects(self) -> Iterator[Project]:
        """Iterate over the projects."""
        return self._items("/projects", {})

    def create_workflow(self, project: str, name: str, **fields: Any) -> Workflow:
        """Create a workflow: `command`, `environment`, `resources`, `training_parameters`, …."""
        return self._post(Workflow, route("projects", project, "workflows"), name=name, **fields)

    def workflow(self, workflow: str) -> Workflow:
        """Return one workflow by its id."""
        return self._ask(Workflow, "GET", route("workflows", workflow))

    def workflows(self, project: str) -> Iterator[Workflow]:
        """Iterate over a project's workflows."""
        return self._items(route("projects", project, "workflows"), {})

    # Runs

    def create_run(self, project: str, *, idempotency_key: str | None = None, **fields: Any) -> RunResource:
        """Create a run: `workflow`, `command`, `name`, `config`, `mode`, `liveness`, `tags`, …."""
        body = without_none(fields)
        return self._ask(RunResource, "POST", route("projects", project, "runs"), body, idempotency_key=idempotency_key)

    def run(self, run: str) -> RunResource:
        """Return one run."""
        return self._ask(RunResource, "GET", route("runs", run))

    def runs(
        self,
        project: str,
        *,
        status: str | Sequence[str] | None = None,
        page_size: int = 200,
        **filters: Any,
    ) -> Iterator[RunResource]:
        """Iterate over a project's runs, newest first, reading page by page."""
        query = {"status": status, "limit": page_size, **filters}
        return self._items(route("projects", project, "runs"), query)

    def update_run(self, run: str, **changes: Any) -> RunResource:
        """Change `tags`, `notes`, `alias`, or merge into `config` and `summary`."""
        return self._ask(RunResource, "PATCH", route("runs", run), changes)

    def start(
        self,
        run: str,
        *,
        host: Json | None = None,
        pid: int | None = None,
        environment_captured: Json | None = None,
    ) -> RunResource:
        """Start a tracked run, or take it over with a new epoch."""
        return self._post(
            RunResource,
            route("runs", run, "start"),
            host=host,
            pid=pid,
            environment_captured=environment_captured,
        )

    def heartbeat(self, run: str, epoch: int) -> Heartbeat:
        """Say that the process lives; a `Conflict` means that it was superseded or the run has ended."""
        return self._post(Heartbeat, route("runs", run, "heartbeat"), epoch=epoch)

    def finish(
        self,
        run: str,
        *,
        epoch: int,
        status: str,
        exit_code: int | None = None,
        cause: str | None = None,
        error: Failure | None = None,
        last_seq: Mapping[str, int] | None = None,
    ) -> RunResource:
        """End a run: `completed`, `failed` or `killed`."""
        body = {
            "status": status,
            "exit_code": exit_code,
            "cause": cause,
            "error": error,
            "last_seq": last_seq,
        }
        return self._post(RunResource, route("runs", run, "finish"), epoch=epoch, **body)

    def kill(self, run: str, *, grace_seconds: float | None = None, reason: str | None = None) -> RunResource:
        """Ask for the run's end; permanent, and immediate for a queued one."""
        return self._post(RunResource, route("runs", run, "kill"), grace_seconds=grace_seconds, reason=reason)

    def deletion(self, run: str) -> Json:
        """Return what deleting a run would take for good, and in `save_first` where it is to be had before."""
        return self._ask(dict, "GET", route("runs", run, "deletion"))

    def delete(self, run: str) -> Json:
        """Erase an ended run for good: metrics, logs, settings."""
        return self._ask(dict, "DELETE", route("runs", run))

    def progress(
        self, run: str, *, epoch: int, done: float, total: float | None = None, unit: str | None = None
    ) -> Json:
        """Report how far the program is."""
        return self._post(dict, route("runs", run, "progress"), epoch=epoch, done=done, total=total, unit=unit)

    def primary_metric(self, run: str, name: str, mode: Mode) -> Json:
        """Set the metric that the run is compared by."""
        return self._post(dict, route("runs", run, "primary-metric"), name=name, mode=mode)

    def wait(self, run: str, *, timeout_seconds: float, poll_seconds: float = 0.3) -> RunResource:
        """Return the run once it is completed, failed, killed or crashed; raises `TimeoutError`."""
        deadline = time.monotonic() + timeout_seconds
        while (now := self.run(run))["status"] not in FINAL:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"run {run} is still {now['status']} after {timeout_seconds:g} s")
            time.sleep(poll_seconds)
        return now

    # What runs left behind

    def metrics(self, run: str) -> list[MetricSummary]:
        """Return the run's metrics with count, last, extremes and steps."""
        found: list[MetricSummary] = self.request("GET", route("runs", run, "metrics"))["metrics"]
        for metric in found:
            for name in ("last", "min", "max", "best"):
                if isinstance(metric.get(name), str):
                    metric[name] = float(str(metric[name]))
        return found

    def logs(
        self,
        run: str,
        *,
        after: str | None = None,
        limit: int | None = None,
        tail: int | None = None,
        stream: str | None = None,
        search: str | None = None,
    ) -> LogPage:
        """Return one page of log lines; `next` of a page is the `after` of the following one."""
        query = {"after": after, "limit": limit, "tail": tail, "stream": stream, "search": search}
        return self._ask(LogPage, "GET", route("runs", run, "logs"), query=query)

    def stream_logs(self, run: str, *, stream: str | None = None, poll_seconds: float = 0.5) -> Iterator[LogLine]:
        """Yield log lines as they come, from the queue on, until the run has ended and all is read."""
        after = None
        while True:
            ended = self.run(run)["status"] in FINAL
            while True:
                page = self.logs(run, after=after, stream=stream)
                yield from page["lines"]
                after = page["last"] or after
                if page["next"] is None:
                    break
            if ended:
                return
            time.sleep(poll_seconds)

    def events(
        self,
        *,
        run: str | None = None,
        project: str | None = None,
        after: int | None = None,
        limit: int | None = None,
        types: Sequence[str] = (),
    ) -> Iterator[Json]:
        """Iterate over the history of a run or of a project, oldest first (CloudEvents), or over `types` of events."""
        path = subject(run, project) + "/events"
        while True:
            query = {"after": after, "limit": limit, "types": ",".join(types) or None}
            page = self.request("GET", path, query=query)
            yield from page["events"]
            if not page["events"] or page["next"] is None:
                return
            after = page["next"]

    def stream(
        self, *, run: str | None = None, project: str | None = None, after: int | None = None
    ) -> Iterator[ServerEvent]:
        """Yield events of a run or of a project as they happen, without end; reconnects after a cut."""
        return follow(self.transport, f"/api/v1{subject(run, project)}/stream", after)

    def audit(self, project: str | None = None) -> Json:
        """Return the head of a project's ledger, or of the organisation's own: position and chain value, both signed.

        Its `head`, kept elsewhere, is what a later `verify` can hold the history against.
        """
        return self._ask(dict, "GET", _audit(project))

    def verify(self, project: str | None = None, *, head: Json | None = None) -> Verification:
        """Have a project's whole history verified, or the organisation's own; `head` is one that was kept elsewhere."""
        return self._post(Verification, f"{_audit(project)}/verify", head=head)

    def query(self, project: str, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> Json:
        """Return what a SQL statement over the project answers: `columns` with names and types, and `rows`.

        Parameters go by name (`$name`) or in order (`?`). NaN and the infinities come by their names.
        """
        body = without_none({"sql": sql, "parameters": parameters})
        return self._ask(dict, "POST", route("projects", project, "query"), body)

    def usage(self) -> Json:
        """Return credits consumed, active runs and limits."""
        return self._ask(dict, "GET", "/usage")

    # What a GPU worker says

    def register_worker(self, name: str, *, host: Json, slots: Sequence[Slot]) -> Worker:
        """Register a worker; the same name again is the same worker."""
        return self._post(Worker, "/workers", name=name, host=host, slots=list(slots))

    def claim(self, run: str, *, worker: str, command_id: str, slots: Sequence[str], epoch: int | None = None) -> Claim:
        """Claim a queued run; a `Conflict` means that it is not queued any more, or another's.

        It repeats by its command: an order to kill that came meanwhile is in the second answer.
        """
        body = without_none({"worker": worker, "command_id": command_id, "slots": list(slots), "epoch": epoch})
        return self._ask(Claim, "POST", route("runs", run, "claim"), body, keyed=False)

    def report(self, run: str, *, epoch: int, report: str, **fields: Any) -> RunResource:
        """Report `preparing`, `started`, `stopping`, `idle`, `requeue` or `ended`.

        A `Conflict` means a stale epoch or an ended run: the process must stop.
        """
        return self._post(RunResource, route("runs", run, "report"), epoch=epoch, report=report, **fields)

    def send_logs(self, run: str, *, epoch: int, source: str, seq: int, lines: Iterable[LogLine]) -> Accepted:
        """Store a batch of log lines, keyed by (epoch, source, seq): the same batch again is stored once."""
        body = {"epoch": epoch, "source": source, "seq": seq, "lines": list(lines)}
        return self._send(run, "logs", body)

    def send_metrics(
        self,
        run: str,
        *,
        epoch: int,
        source: str,
        seq: int,
        series: Mapping[str, Mapping[str, Sequence[Any]]],
        stage: str | None = None,
    ) -> Accepted:
        """Store a batch of points (columns `step`, `value`, `time_us` a series), keyed like `send_logs`."""
        columns = {name: {**column, "value": finite_or_named(column["value"])} for name, column in series.items()}
        body = {"epoch": epoch, "source": source, "seq": seq, "series": columns, "stage": stage}
        return self._send(run, "metrics", body)

    def send_system_metrics(
        self, run: str, *, epoch: int, source: str, seq: int, series: Mapping[str, Mapping[str, Sequence[Any]]]
    ) -> Accepted:
        """Store a batch of a machine's figures, namespace `system/`, keyed like `send_logs`."""
        return self._send(run, "system-metrics", {"epoch": epoch, "source": source, "seq": seq, "series": series})

    def _send(self, run: str, kind: str, body: Json) -> Accepted:
        key = f"{run}/{body['epoch']}/{body['source']}/{body['seq']}"
        content = msgspec.json.encode(body)
        return self._ask(Accepted, "POST", route("runs", run, kind), content, idempotency_key=key)


def _audit(project: str | None) -> str:
    return route("organisation", "audit") if project is None else route("projects", project, "audit")
