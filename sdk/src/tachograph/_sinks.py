"""Where a run's calls go: the buffer while it is open, and what answers in its place otherwise."""

# ruff: noqa: ARG005 (what does nothing needs no arguments)

import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from tachograph._errors import RunFinished
from tachograph._types import Json

log = logging.getLogger("tachograph")


class Sink(Protocol):
    """What takes a run's data."""

    def add(self, data: Mapping[str, Any], step: int | None, stage: str | None) -> None:
        """Take one row of points."""

    def add_lines(self, stream: str, texts: list[str]) -> None:
        """Take log lines."""

    def change(self, field: str, patch: Mapping[str, Any]) -> None:
        """Merge into `config` or `summary`."""

    def set_primary_metric(self, name: str, mode: str) -> None:
        """Take the metric to compare by."""

    def set_progress(self, progress: Json) -> None:
        """Take how far the program is."""


class Closed:
    """Takes nothing; `answer` hears what was asked for."""

    def __init__(self, answer: Callable[[str], None]) -> None:
        self._answer = answer

    def add(self, data: Mapping[str, Any], step: int | None, stage: str | None) -> None:
        """Take nothing."""
        self._answer("log metrics to")

    def add_lines(self, stream: str, texts: list[str]) -> None:
        """Take nothing."""
        self._answer("log text to")

    def change(self, field: str, patch: Mapping[str, Any]) -> None:
        """Take nothing."""
        self._answer(f"change the {field} of")

    def set_primary_metric(self, name: str, mode: str) -> None:
        """Take nothing."""
        self._answer("set the primary metric of")

    def set_progress(self, progress: Json) -> None:
        """Take nothing."""
        self._answer("report progress of")


def disabled() -> Closed:
    """Return a sink without effect."""
    return Closed(lambda asked: None)


def finished(run_id: str) -> Closed:
    """Return a sink that raises `RunFinished`."""

    def refuse(asked: str) -> NoReturn:
        raise RunFinished(f"cannot {asked} run {run_id}: it was finished; open another with tachograph.init()")

    return Closed(refuse)


def of_another_process(run_id: str) -> Closed:
    """Return a sink that says once that it has no effect."""
    said: list[str] = []

    def say(asked: str) -> None:
        if not said:
            said.append(asked)
            log.warning(
                "tachograph: run %s belongs to the parent process; what this child logs to it is ignored", run_id
            )

    return Closed(say)
