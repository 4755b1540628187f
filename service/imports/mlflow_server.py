"""A running MLflow server as an input, read through its REST API.

The runs are listed first. Then each is asked for, and its points are kept in a file that has no name, so that what was
checked and what is brought here are the same whatever the server does meanwhile. Files are read when their turn comes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from service.artifact_names import clean_name
from service.imports.incoming import Batch, Incoming, IncomingFile, Refused, Unreadable, checked, said, takes_metric
from service.imports.mlflow_client import Client
from service.imports.mlflow_messages import (
    Entry,
    ExperimentsPage,
    FilesPage,
    HistoryPage,
    Pair,
    RunAnswer,
    RunsPage,
)
from service.imports.mlflow_run import MAX_TEXT_BYTES, SYSTEM, Told, check_ended, check_point, incoming, linked
from service.imports.points import Points
from service.imports.spool import Spool
from service.problems import Invalid

EXPERIMENTS_AT_ONCE: Final = 1_000
RUNS_AT_ONCE: Final = 100
POINTS_AT_ONCE: Final = 25_000
"""MLflow's own limit."""
MAX_FILES: Final = 10_000
"""Of a run; so many requests a listing may take, too."""


class MLflowServer:
    """The active experiments of a server, or those named by name or id.

    Raises `Unreadable` where one is not there, `Unreachable` where the server is not. `progress` is told how many
    runs were listed, and points read.
    """

    system = SYSTEM

    def __init__(
        self,
        client: Client,
        experiments: Sequence[str] = (),
        progress: Callable[[str, int], None] = lambda _what, _count: None,
        *,
        points_at_once: int = POINTS_AT_ONCE,
        runs_at_once: int = RUNS_AT_ONCE,
    ) -> None:
        self._client = client
        self._progress = progress
        self._points_at_once = points_at_once
        self._points = 0
        self._experiments = self._chosen(experiments)
        self._runs: dict[str, None] = {}  # once each, though a list may shift between two pages
        for experiment in self._experiments:
            question = {
                "experiment_ids": [experiment],
                "run_view_type": "ACTIVE_ONLY",
                "max_results": runs_at_once,
                "order_by": ["attributes.start_time ASC"],
            }
            for page in client.pages("POST", "runs/search", RunsPage, question):
                self._runs.update((run.info.run_id, None) for run in page.runs)
                progress("list", len(self._runs))
        self.expected = len(self._runs)

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs in the order in which they began; one is good until the next is asked for."""
        for run_id in self._runs:
            with Spool() as spool:
                try:
                    read: Incoming | Refused = self._run(run_id, spool)
                except (Unreadable, Invalid, ValueError) as error:
                    read = Refused(run_id, run_id, said(error))
                yield read

    def _chosen(self, wanted: Sequence[str]) -> dict[str, str]:
        question = {"view_type": "ACTIVE_ONLY", "max_results": EXPERIMENTS_AT_ONCE}
        pages = self._client.pages("POST", "experiments/search", ExperimentsPage, question)
        known = {one.experiment_id: one.name for page in pages for one in page.experiments}
        if not wanted:
            return known
        ids = {name: experiment for experiment, name in known.items()} | {one: one for one in known}
        missing = [one for one in wanted if one not in ids]
        if missing:
            raise Unreadable(f"the server has no active experiment {missing[0]!r}")
        return {ids[one]: known[ids[one]] for one in wanted}

    def _run(self, run_id: str, spool: Spool) -> Incoming:
        run = self._client.ask("GET", "runs/get", RunAnswer, {"run_id": run_id}).run
        info = run.info
        if info.run_id != run_id:
            raise Unreadable(f"asked for, the server gives run {info.run_id!r}")
        check_ended(info.status, info.lifecycle_stage, info.run_name)
        told = Told(
            run_id=run_id,
            name=info.run_name,
            status=info.status,
            start_time=info.start_time,
            end_time=info.end_time,
            user=info.user_id,
            experiment_id=info.experiment_id,
            experiment=self._experiments.get(info.experiment_id, ""),
            artifact_uri=info.artifact_uri,
            params=_texts(run.data.params),
            tags=_texts(run.data.tags),
        )
        digest = hashlib.sha256(msgspec.json.encode(told))
        inputs, outputs = run.inputs, run.outputs
        left_out = linked(len(inputs.dataset_inputs) + len(inputs.model_inputs), len(outputs.model_outputs))
        for name in sorted({metric.key for metric in run.data.metrics}):
            self._metric(run_id, name, spool, digest, left_out)
        files = list(self._files(run_id, info.artifact_uri, left_out))
        return incoming(told, digest.hexdigest(), batches=partial(_batches, spool), files=files, left_out=left_out)

    def _metric(self, run_id: str, name: str, spool: Spool, digest: Any, left_out: list[str]) -> None:
        """Read a metric's history into the spool, or say that it is left out."""
        question = {"run_id": run_id, "metric_key": name, "max_results": self._points_at_once}
        taken = takes_metric(name)
        digest.update(name.encode())
        count = 0
        for page in self._client.pages("GET", "metrics/get-history", HistoryPage, question):
            for point in page.metrics:
                check_point(point.step, point.timestamp)
            rows = [(point.step, point.timestamp * 1_000, point.value) for point in page.metrics]
            count += len(rows)
            if taken:
                digest.update(spool.add(name, rows))
            self._points += len(rows)
            self._progress("read", self._points)
        if not taken:
            left_out.append(f"metric {name!r}: its name cannot be taken, {count} points")

    def _files(self, run_id: str, root: str, left_out: list[str]) -> Iterator[IncomingFile]:
        proxied = urlsplit(root)
        if proxied.scheme != "mlflow-artifacts" or proxied.netloc not in {"", self._client.host}:
            try:
                found = self._client.ask("GET", "artifacts/list", FilesPage, {"run_id": run_id}).files
            except Unreadable as error:
                left_out.append(f"artifacts at {root}: the server does not pass them on ({said(error)})")
                return
            if found:
                left_out.append(
                    f"artifacts at {root}: the server does not pass them on; {found[0].path!r} is the first"
                )
            return
        try:
            entries = list(self._listed(run_id, left_out))
        except Unreadable as error:
            left_out.append(f"artifacts: they cannot be listed ({said(error)})")
            return
        for entry in entries:
            read = partial(self._client.proxied, f"{proxied.path.strip('/')}/{entry.path}")
            try:
                yield IncomingFile(name=clean_name(entry.path), kind="file", bytes=entry.file_size, read=read)
            except Invalid as error:
                left_out.append(f"artifact {entry.path!r}: {error}")

    def _listed(self, run_id: str, left_out: list[str]) -> Iterator[Entry]:
        """Yield a run's files, directory by directory."""
        due, seen, count = [""], {""}, 0
        while due:
            directory = due.pop()
            question = {"run_id": run_id, **({"path": directory} if directory else {})}
            for page in self._client.pages("GET", "artifacts/list", FilesPage, question):
                for entry in page.files:
                    if not entry.is_dir:
                        yield entry
                    elif entry.path not in seen:
                        seen.add(entry.path)
                        due.append(entry.path)
                    count += 1
                    if count >= MAX_FILES:
                        left_out.append(f"artifacts: only the first {MAX_FILES} were listed")
                        return


def _texts(pairs: list[Pair]) -> dict[str, str]:
    for pair in pairs:
        if len(pair.value.encode()) > MAX_TEXT_BYTES:
            raise Unreadable(f"{pair.key!r} has over {MAX_TEXT_BYTES} bytes")
    return {pair.key: pair.value for pair in sorted(pairs, key=lambda one: one.key)}


def _batches(spool: Spool) -> Iterator[Batch]:
    points = Points(SYSTEM)
    for name, step, time_us, value in spool.points():
        yield from map(checked, points.add(name, step, time_us, value))
    yield from map(checked, points.rest())
