"""What the demo shows: a table of runs, a curve, a history. Colour only on a terminal, and never alone."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import plotext
from rich import box
from rich.table import Table
from rich.text import Text

COLOURS: Final[Mapping[str, str]] = {
    "queued": "bright_black",
    "starting": "blue",
    "running": "blue",
    "stopping": "bright_blue",
    "idle": "yellow",
    "completed": "green",
    "failed": "red",
    "killed": "bright_black",
    "crashed": "dark_red",
}
SIGNS: Final[Mapping[str, str]] = {
    "queued": "…",
    "starting": "↑",
    "running": "▶",
    "stopping": "↓",
    "idle": "⏸",
    "completed": "✓",
    "failed": "✗",
    "killed": "■",
    "crashed": "☠",
}
MICRO: Final = 1_000_000


def status(run: Mapping[str, Any]) -> Text:
    """Return a run's status with its sign and colour."""
    name = run["status"]
    text = Text(f"{SIGNS.get(name, ' ')} {name}", style=COLOURS.get(name, ""))
    if run.get("unresponsive"):
        text.append(" (unresponsive)", style="yellow")
    return text


def live_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table that is shown while the runs go on."""
    table = Table(box=None, pad_edge=False)
    for column in ("run", "mode", "status", "time", "progress"):
        table.add_column(column, no_wrap=True)
    for run in runs:
        table.add_row(run["name"], run["mode"], status(run), seconds(run["training_seconds"]), progress(run))
    return table


def final_table(runs: Sequence[Mapping[str, Any]], best: Mapping[str, float | None], metric: str) -> Table:
    """Return the table of how the runs ended."""
    table = Table(title="Runs", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("run", "status", "cause"):
        table.add_column(column, no_wrap=True)
    for column in ("training", "credits", f"best {metric}"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        figure = best.get(run["id"])
        table.add_row(
            run["name"],
            status(run),
            run["cause"] or "",
            seconds(run["training_seconds"]),
            f"{run['credits']['consumed_micro'] / MICRO:.6f}",
            "–" if figure is None else f"{figure:.4f}",
        )
    return table


def progress(run: Mapping[str, Any]) -> str:
    """Return a bar, and the time that is left where it can be told."""
    reported = run["progress"]
    if not reported or not reported["total"]:
        return run["stage"] or ""
    share = min(1.0, reported["done"] / reported["total"])
    bar = "█" * round(share * 20) + "░" * (20 - round(share * 20))
    left = reported["remaining_seconds"]
    ending = f"  {left:.0f} s left" if left is not None and run["status"] == "running" else ""
    return f"{bar} {share:4.0%}{ending}"


def seconds(value: float) -> str:
    """Return a duration."""
    return f"{value:.1f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s"


def curve(series: Mapping[str, Any], title: str, *, width: int, colour: bool) -> str:
    """Return a chart answer drawn with characters: the last value of each bucket over its x."""
    numbers = [(x, y) for x, y in zip(series["x"], series["last"], strict=True) if isinstance(y, int | float)]
    figure = plotext.figure
    figure.clear()
    figure.theme("simple" if colour else "colorless")
    figure.plot_size(width, 16)
    figure.title(title)
    figure.draw(figure.signal([x for x, _ in numbers], [y for _, y in numbers], marker="braille"))
    drawn = str(figure.build())
    return drawn if colour else str(plotext.uncolorize(drawn))


def history(events: Sequence[Mapping[str, Any]]) -> Table:
    """Return a run's status history."""
    table = Table(box=None, pad_edge=False)
    for column in ("when", "from", "to", "event", "cause", "by"):
        table.add_column(column, no_wrap=True)
    for event in events:
        table.add_row(
            event["at"][11:23],
            event["from_status"],
            event["to_status"],
            event["event"],
            event["cause"] or "",
            event["actor"].split(":")[0] + ":" + event["actor"].split(":")[-1][:8],
        )
    return table
