"""The main job from start to end: four runs, four endings, and the proof of what happened.

Completed and killed and failed are managed: a GPU worker (here with CPU slots, where there is no GPU) starts them. The
crashed one is a process of its own that is killed hard, so that only its silence tells.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

import tachograph
from stack import demo_view
from stack.system import Stack
from tachograph import FINAL, Client

ROOT: Final = Path(__file__).resolve().parent.parent
SCRIPT: Final = "examples/train_digits.py"
METRIC: Final = "val/accuracy"
LOSS: Final = "train/loss"
CURVE_BUCKETS: Final = 300
SECONDS: Final = 100.0
LIVENESS: Final = {"beat_seconds": 0.5, "unresponsive_seconds": 2.0, "crashed_seconds": 4.0}


Shown = Callable[[list[dict[str, Any]]], None]
"""Takes the runs as they are now, and shows them."""


class DemoFailed(Exception):
    """Something did not come out as it should; the message says what."""


class Demo:
    """One pass through the main job against a running system."""

    def __init__(self, stack: Stack, console: Console) -> None:
        assert stack.api_key is not None
        self.client = Client(stack.url, stack.api_key)
        self.url = stack.url
        self.api_key = stack.api_key
        self.home = stack.home
        self.console = console
        self.project = f"demo-{time.strftime('%Y%m%d-%H%M%S')}"
        self.deadline = time.monotonic() + SECONDS

    def run(self) -> None:
        """Do the job and show it. Raises `DemoFailed` at the first thing that is not as it should be."""
        self.client.create_project(self.project, description="Four runs, four endings")
        workflow = self.client.create_workflow(
            self.project,
            "digits",
            architecture="softmax regression, SGD",
            dataset="scikit-learn digits, 80/20 split",
            training_parameters={"lr": 0.05, "batch_size": 32},
            command=[sys.executable, str(ROOT / SCRIPT), "--epochs", "12", "--seconds-per-epoch", "0.5"],
            estimate_seconds=60,
        )
        self.say(f"project {self.project}, workflow {workflow['name']}")
        completed = self._managed(notes="left alone")
        killed = self._managed(notes="killed half way")
        crashed, process = self._tracked()
        try:
            failed = self._managed(notes="raises", command=[*self._command("12"), "--fail-at", "3"])
            expected = {completed: "completed", killed: "killed", crashed: "crashed", failed: "failed"}
            with self._showing() as show:
                runs = self._follow(expected, killed=killed, crashed=crashed, process=process, show=show)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._check(runs, expected)
        self._tell(runs, completed=completed, crashed=crashed)

    def _command(self, epochs: str) -> list[str]:
        return [sys.executable, str(ROOT / SCRIPT), "--epochs", epochs, "--seconds-per-epoch", "0.5"]

    def _managed(self, **fields: Any) -> str:
        run = self.client.create_run(self.project, workflow="digits", **fields)
        self.say(f"queued   {run['name']} ({fields['notes']})")
        return run["id"]

    def _tracked(self) -> tuple[str, subprocess.Popen[bytes]]:
        """Start the script as a process of the user's own; returns its run once that has begun."""
        environment = {
            **os.environ,
            "TACHOGRAPH_URL": self.url,
            "TACHOGRAPH_API_KEY": self.api_key,
            "TACHOGRAPH_PROJECT": self.project,
        }
        liveness = [f"{LIVENESS[name]}" for name in ("beat_seconds", "unresponsive_seconds", "crashed_seconds")]
        process = subprocess.Popen(
            [*self._command("200"), "--liveness", *liveness],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while time.monotonic() < self.deadline:
            for run in self.client.runs(self.project, status="running"):
                if run["mode"] == "tracked":
                    self.say(f"tracked  {run['name']} (process {process.pid}, to be killed hard)")
                    return run["id"], process
            if process.poll() is not None:
                raise DemoFailed(f"the tracked process ended with {process.returncode} before its run began")
            time.sleep(0.1)
        process.kill()
        raise DemoFailed("the tracked run did not begin in time")

    def _follow(
        self,
        expected: Mapping[str, str],
        *,
        killed: str,
        crashed: str,
        process: subprocess.Popen[bytes],
        show: Shown,
    ) -> dict[str, dict[str, Any]]:
        """Watch the runs to their ends; kill one half way, and the tracked one's process after some points."""
        kill_asked = hard_killed = False
        runs: dict[str, dict[str, Any]] = {}
        while time.monotonic() < self.deadline:
            runs = {run_id: dict(self.client.run(run_id)) for run_id in expected}
            show(list(runs.values()))
            if not kill_asked and _half_way(runs[killed]):
                self.client.kill(killed, grace_seconds=5, reason="the demo kills this one half way")
                kill_asked = True
            if not hard_killed and runs[crashed]["training_seconds"] > 4:
                os.kill(process.pid, signal.SIGKILL)
                hard_killed = True
            if all(run["status"] in FINAL for run in runs.values()):
                return runs
            time.sleep(0.3)
        states = ", ".join(f"{run['name']} {run['status']}" for run in runs.values())
        raise DemoFailed(f"not every run ended in {SECONDS:.0f} s: {states}")

    def _check(self, runs: Mapping[str, Mapping[str, Any]], expected: Mapping[str, str]) -> None:
        for run_id, status in expected.items():
            if runs[run_id]["status"] != status:
                run = runs[run_id]
                raise DemoFailed(f"{run['name']} should be {status}, is {run['status']} ({run['cause']})")
        failed = next(run for run in runs.values() if run["status"] == "failed")
        if "Traceback" not in (failed["error"] or {}).get("traceback", ""):
            raise DemoFailed(f"{failed['name']} failed without its traceback")

    def _tell(self, runs: Mapping[str, dict[str, Any]], *, completed: str, crashed: str) -> None:
        """Show how it came out."""
        runs = {run_id: dict(self.client.run(run_id)) for run_id in runs}
        best = {run_id: self._best(run_id) for run_id in runs}
        if best[completed] is None:
            raise DemoFailed(f"no best {METRIC} of the completed run")
        self.console.print()
        self.console.print(demo_view.final_table(list(runs.values()), best, METRIC))
        failed = next(run for run in runs.values() if run["status"] == "failed")
        self.console.print(f"\n{failed['name']} failed with:", highlight=False)
        self.console.print(failed["error"]["traceback"].rstrip().splitlines()[-1], markup=False, style="red")
        (series,) = self.client.chart(completed, [LOSS], buckets=CURVE_BUCKETS)
        if not series["x"]:
            raise DemoFailed("the chart of the loss is empty")
        width = min(100, self.console.width)
        self.console.print()
        print(demo_view.curve(dict(series), f"{LOSS} of {runs[completed]['name']}", width=width, colour=self.colour))
        self.console.print(f"\nStatus history of {runs[crashed]['name']}", style="bold")
        self.console.print(demo_view.history(self._transitions(crashed)))
        verification = self.client.verify(self.project)
        if not verification["verified"]:
            raise DemoFailed(f"the ledger does not verify: {verification['first_bad']}")
        self.console.print(
            f"\nLedger: verified up to position {verification['position']}, {verification['checked']} events",
            highlight=False,
        )
        files, size = self._parquet(runs[completed]["project_id"])
        place = os.environ.get("TACHOGRAPH_ARCHIVE_URL") or self.home.parquet
        self.console.print(f"Parquet: {files} files, {size:,} bytes, in {place}", highlight=False)
        self._explore(completed)

    def _best(self, run_id: str) -> float | None:
        for metric in self.client.metrics(run_id):
            if metric["name"] == METRIC:
                value = metric["max"]
                return float(value) if value is not None else None
        return None

    def _transitions(self, run_id: str) -> list[dict[str, Any]]:
        answer = self.client.request("GET", f"/runs/{run_id}/transitions")
        transitions: list[dict[str, Any]] = answer["transitions"]
        return transitions

    def _parquet(self, project_id: str) -> tuple[int, int]:
        """Return how many Parquet files the project has and their bytes, once the archiver has come round."""
        root = self.home.path / "archive-cache" if os.environ.get("TACHOGRAPH_ARCHIVE_URL") else self.home.parquet
        folder = root / f"ledger={project_id}"
        while time.monotonic() < self.deadline:
            sizes = [path.stat().st_size for path in folder.rglob("*.parquet")]
            if sizes:
                return len(sizes), sum(sizes)
            time.sleep(0.2)
        raise DemoFailed(f"no Parquet was written below {os.environ.get('TACHOGRAPH_ARCHIVE_URL') or folder}")

    def _explore(self, run_id: str) -> None:
        self.console.print("\nExplore further", style="bold")
        given = "".join(
            f"{name}={shlex.quote(os.environ[name])} "
            for name in ("TACHOGRAPH_HOME", "TACHOGRAPH_PORT")
            if name in os.environ
        )
        credentials = shlex.quote(str(self.home.credentials))
        lines = (
            f"{given}make up    # in a terminal of its own; then, in this one:",
            f"KEY=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[\"api_key\"])' {credentials})",
            f'curl -H "Authorization: Bearer $KEY" {self.url}/api/v1/projects/{self.project}/runs',
            f'curl -H "Authorization: Bearer $KEY" "{self.url}/api/v1/runs/{run_id}/chart?metric={LOSS}"',
            f'curl -H "Authorization: Bearer $KEY" "{self.url}/api/v1/runs/{run_id}/logs?tail=20"',
            f'curl -N -H "Authorization: Bearer $KEY" "{self.url}/api/v1/projects/{self.project}/stream?after=0"',
        )
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def colour(self) -> bool:
        """Whether colour may be used."""
        return self.console.is_terminal and not self.console.no_color

    def say(self, text: str) -> None:
        """Say what happens."""
        self.console.print(text, highlight=False)

    @contextlib.contextmanager
    def _showing(self) -> Iterator[Shown]:
        """Return what to call with the runs: a live table on a terminal, a line for each change elsewhere."""
        if not self.console.is_terminal:
            yield PlainLines(self.console)
            return
        with Live(Table(), console=self.console, refresh_per_second=8) as live:
            yield lambda runs: live.update(demo_view.live_table(runs))


class PlainLines:
    """Says each change of status once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def __call__(self, runs: list[dict[str, Any]]) -> None:
        """Say what changed."""
        for run in runs:
            status = run["status"] + (" (unresponsive)" if run["unresponsive"] else "")
            if self._said.get(run["id"]) != status:
                self._said[run["id"]] = status
                self._console.print(f"{status:<12} {run['name']}", highlight=False)


def _half_way(run: Mapping[str, Any]) -> bool:
    progress = run["progress"]
    return bool(progress and progress["total"] and progress["done"] >= progress["total"] / 2)


def main(home: Path, port: int) -> int:
    """Start the system, show the main job, stop the system; 0 only if everything came out as it should.

    Raises `StackError` where the system cannot be started.
    """
    console = Console(highlight=False)
    console.print("Starting PostgreSQL, NATS, the service, its roles and a GPU worker", style="bold")
    with Stack(home, port, say=lambda line: console.print(f"  {line}", style="dim")) as stack:
        console.print(f"Ready at {stack.url}; everything is kept in {home}\n", soft_wrap=True)
        demo = Demo(stack, console)
        try:
            demo.run()
        except (DemoFailed, tachograph.Error) as error:
            console.print(f"\nThe demo failed: {error}", style="red", markup=False)
            console.print(f"The logs are in {stack.home.logs}")
            return 1
    console.print("\nEverything came out as it should.", style="green")
    return 0
