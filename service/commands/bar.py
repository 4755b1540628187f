"""How far a command is: bars on a terminal, nothing elsewhere."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """A bar for each thing that is done, on standard error."""

    def __init__(self, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, console=console, disable=not (shown and console.is_terminal), transient=True
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, what: str, at: int, end: int | None) -> None:
        """Show how far `what` is; where it ends may not be known."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=end)
        self._progress.update(self._tasks[what], completed=at, total=end)

    def of(self, what: str) -> Callable[[int, int], None]:
        """Return what shows how far `what` is."""
        return lambda at, end: self.show(what, at, end)
