"""Sweeps: searches over a workflow's parameters, made of runs (docs/sweeps.md)."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypedDict

from tachograph._calls import Calls, route
from tachograph._types import FINAL, Json

DONE: Final = frozenset({"finished", "stopped", "cancelled"})
"""Sweeps that make no more trials."""


class Trial(TypedDict):
    """One of a sweep's runs, and the best that it logged of the sweep's metric (infinities by name), at which step."""

    number: int
    run: str
    name: str
    status: str
    parameters: Json
    value: float | str | None
    step: int | None


class TrialCounts(TypedDict):
    """How many trials there are, and how many of them stand where."""

    made: int
    by_status: dict[str, int]


class Sweep(TypedDict):
    """A sweep; `actions` is what may be asked of it now."""

    id: str
    project_id: str
    name: str
    status: Literal["running", "paused", "stopped", "cancelled", "finished"]
    workflow: str
    workflow_version: int
    method: Literal["grid", "random", "bayes"]
    parameters: Json
    metric: Json | None
    max_runs: int
    concurrency: int
    seed: int
    actions: list[str]
    trials: TrialCounts
    best: Trial | None


class Sweeps(Calls):
    """The routes of sweeps as methods."""

    def create_sweep(
        self,
        project: str,
        *,
        workflow: str,
        method: Literal["grid", "random", "bayes"],
        parameters: Mapping[str, Any],
        **fields: Any,
    ) -> Sweep:
        """Start a search over a workflow's parameters: `metric`, `max_runs`, `concurrency`, `seed`, `name`."""
        body = {"workflow": workflow, "method": method, "parameters": dict(parameters), **fields}
        return self._post(Sweep, route("projects", project, "sweeps"), **body)

    def sweep(self, sweep: str) -> Sweep:
        """Return one sweep, with how many trials stand where, and the best of them."""
        return self._ask(Sweep, "GET", route("sweeps", sweep))

    def sweeps(self, project: str) -> Iterator[Sweep]:
        """Iterate over a project's sweeps, newest first; `best` is told of each alone."""
        return self._items(route("projects", project, "sweeps"), {})

    def trials(self, sweep: str) -> Iterator[Trial]:
        """Iterate over a sweep's trials in order."""
        return self._items(route("sweeps", sweep, "trials"), {})

    def pause_sweep(self, sweep: str) -> Sweep:
        """Have no trials made until the sweep is resumed; those that there are go on."""
        return self._post(Sweep, route("sweeps", sweep, "pause"))

    def resume_sweep(self, sweep: str) -> Sweep:
        """Have trials made again."""
        return self._post(Sweep, route("sweeps", sweep, "resume"))

    def stop_sweep(self, sweep: str) -> Sweep:
        """Have no more trials made, for good; those that there are go on to their end."""
        return self._post(Sweep, route("sweeps", sweep, "stop"))

    def cancel_sweep(self, sweep: str) -> Sweep:
        """Have no more trials made, for good, and kill those that have not ended."""
        return self._post(Sweep, route("sweeps", sweep, "cancel"))

    def wait_for_sweep(self, sweep: str, *, timeout_seconds: float, poll_seconds: float = 1.0) -> Sweep:
        """Return the sweep once it makes no more trials and all have ended; raises `TimeoutError`."""
        deadline = time.monotonic() + timeout_seconds
        while (now := self.sweep(sweep))["status"] not in DONE or not FINAL.issuperset(now["trials"]["by_status"]):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"sweep {sweep} is {now['status']} after {timeout_seconds:g} s: {now['trials']}")
            time.sleep(poll_seconds)
        return now
