"""What became of an import: for people, and as JSON."""

from uuid import UUID

import msgspec

from service.timeline import plain


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


class Report(msgspec.Struct):
    """An import: of what, into which project, run by run."""

    system: str
    source: str
    project_id: UUID
    runs: list[RunReport] = []

    def counted(self, outcome: str) -> int:
        """Return how many runs came to this."""
        return sum(one.outcome == outcome for one in self.runs)

    @property
    def refused(self) -> bool:
        """Whether anything was refused."""
        return self.counted("refused") > 0

    def said(self) -> str:
        """Return the report as people read it; what inputs say cannot steer a terminal."""
        lines = []
        for one in self.runs:
            what = f"{one.points} points, {one.lines} lines, {one.events} events, {one.artifacts} artifacts"
            result = what if one.outcome in {"new", "continued"} else one.why
            lines.append(f"{one.outcome:<13} {one.name} ({one.run_id or one.original}){': ' if result else ''}{result}")
            lines += [f"{'left out':>13} {text}" for text in one.left_out]
        counts = {word: self.counted(word) for word in ("new", "continued", "already there", "refused")}
        lines.append(
            f"{self.source} into project {self.project_id}: " + ", ".join(f"{n} {w}" for w, n in counts.items())
        )
        return "\n".join(map(plain, lines))
