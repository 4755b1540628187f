"""What became of an import or an export: for people, and as JSON."""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

import msgspec

from service.commands.timeline import plain

OUTCOMES: Final = ("new", "continued", "already there", "refused")
LISTED: Final = 1_000
"""Runs that an import's kept report names, of those that came and of those that were refused."""


class RunReport(msgspec.Struct):
    """One run: its id in the input and here, whether it is new, already there, continued or refused, and why.

    `points`, `lines`, `events` (of its own ledger) and `artifacts` count what is here of it after a whole import.
    """

    original: str
    name: str
    run_id: UUID | None = None
    outcome: str = "refused"
    why: str = ""
    points: int = 0
    lines: int = 0
    events: int = 0
    artifacts: int = 0
    left_out: list[str] = []


class DefinitionReport(msgspec.Struct):
    """A workflow, a sweep or an alert rule: what became of it, as of a run."""

    kind: str
    original: UUID
    name: str = ""
    id: UUID | None = None
    outcome: str = "readable"
    why: str = ""

    def said(self) -> str:
        """Return it as people read it."""
        what = f"{self.kind.replace('_', ' ')} {self.name} ({self.id or self.original})"
        return f"{self.outcome:<13} {what}{': ' if self.why else ''}{self.why}"


class ImportedRun(msgspec.Struct, frozen=True):
    """What became of one run, without what its deletion would have to erase: its name, and what was left out of it.

    Both are with the run (in its `run.import_finished`). `why` is that of a refusal.
    """

    original: str
    run_id: UUID | None
    outcome: str
    why: str


class Outcomes(msgspec.Struct):
    """An import as it is kept: how many runs came to what, and the first of them; `why` it failed as a whole."""

    why: str = ""
    counts: dict[str, int] = {}
    points: int = 0
    lines: int = 0
    events: int = 0
    artifacts: int = 0
    runs: list[ImportedRun] = []
    refused: list[ImportedRun] = []
    definitions: list[DefinitionReport] = []

    @property
    def total(self) -> int:
        """How many runs there were."""
        return sum(self.counts.values())

    @property
    def any_refused(self) -> bool:
        """Whether a run or a definition was refused."""
        return self.counts.get("refused", 0) > 0 or any(one.outcome == "refused" for one in self.definitions)

    def define(self, one: DefinitionReport) -> None:
        """Note a definition."""
        if len(self.definitions) < LISTED:
            self.definitions.append(one)

    def add(self, one: RunReport) -> None:
        """Count a run."""
        self.counts[one.outcome] = self.counts.get(one.outcome, 0) + 1
        self.points += one.points
        self.lines += one.lines
        self.events += one.events
        self.artifacts += one.artifacts
        refused = one.outcome == "refused"
        some = self.refused if refused else self.runs
        if len(some) < LISTED:
            some.append(ImportedRun(one.original, one.run_id, one.outcome, one.why if refused else ""))


class Report(msgspec.Struct):
    """An import: of what, into which project, run by run."""

    system: str
    source: str
    project_id: UUID
    runs: list[RunReport] = []
    definitions: list[DefinitionReport] = []

    def counted(self, outcome: str) -> int:
        """Return how many runs came to this."""
        return sum(one.outcome == outcome for one in self.runs)

    @property
    def refused(self) -> bool:
        """Whether anything was refused."""
        return self.counted("refused") > 0 or any(one.outcome == "refused" for one in self.definitions)

    def said(self) -> str:
        """Return the report as people read it; what inputs say cannot steer a terminal."""
        lines = [defined.said() for defined in self.definitions]
        for one in self.runs:
            what = f"{one.points} points, {one.lines} lines, {one.events} events, {one.artifacts} artifacts"
            result = what if one.outcome in {"new", "continued"} else one.why
            identity = one.run_id or one.original
            who = one.name if one.name == identity else f"{one.name} ({identity})"
            lines.append(f"{one.outcome:<13} {who}{': ' if result else ''}{result}")
            lines += [f"{'left out':>13} {text}" for text in one.left_out]
        counts = {word: self.counted(word) for word in OUTCOMES}
        lines.append(_counted(self.source, self.project_id, counts))
        return "\n".join(map(plain, lines))


class Uploaded(msgspec.Struct, frozen=True):
    """An import over HTTP: of what, into which project, and what became of it.

    `left_out` says by run what is not here of it. Where no run of another tracker could be read, there is no import.
    """

    source: str
    project_id: UUID
    import_id: UUID | None
    report: Outcomes
    left_out: dict[str, list[str]] = {}

    @property
    def refused(self) -> bool:
        """Whether anything was refused."""
        return self.report.any_refused

    def said(self) -> str:
        """Return the report as people read it: what was refused, and counts of the rest."""
        report = self.report
        lines = [defined.said() for defined in report.definitions]
        lines += [f"{'refused':<13} {one.run_id or one.original}: {one.why}" for one in report.refused]
        lines += [f"{'left out':<13} {run}: {text}" for run, texts in self.left_out.items() for text in texts]
        lines.append(
            f"{report.points} points, {report.lines} lines, {report.events} events, {report.artifacts} artifacts"
        )
        lines.append(_counted(self.source, self.project_id, report.counts))
        return "\n".join(map(plain, lines))


class Exported(msgspec.Struct, frozen=True):
    """An archive that was written."""

    file: str
    project: str
    position: int
    runs: int
    bytes: int

    def said(self) -> str:
        """Return it as people read it."""
        return f"{self.file}: {self.runs} runs of {self.project} as of position {self.position}, {self.bytes} bytes"


def _counted(source: str, project_id: UUID, counts: Mapping[str, int]) -> str:
    shown = (*OUTCOMES, *(word for word in counts if word not in OUTCOMES))
    return f"{source} into project {project_id}: " + ", ".join(f"{counts.get(word, 0)} {word}" for word in shown)
