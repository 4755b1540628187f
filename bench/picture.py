"""The results as a picture: each ratio with its spread on a scale whose middle is the goal, to the right is better."""

import math
from collections.abc import Mapping
from io import StringIO
from typing import Final

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from bench import report
from bench.harness import Result
from bench.results import Section

WIDTH: Final = 61
LABEL: Final = 72
DECADES: Final = 1.0
"""How far the scale reaches to either side: a tenth of the goal, ten times the goal."""

COLOURS: Final = {"yes": "green", "no": "red", "not judged": "yellow"}
FRAME: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" \
font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{char_height}px">
<style>{styles}</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" fill="#ffffff"/>
<g transform="translate(10, 10)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
"""An SVG that asks for nothing from elsewhere."""


def lines(sections: Mapping[str, Section]) -> list[Text]:
    """Return a line for each comparison that has a goal."""
    head = Text(" " * LABEL + "a tenth".ljust(WIDTH // 2 - 2) + "goal".ljust(WIDTH // 2 - 6) + "ten times")
    found = [head]
    for name in sorted(sections, key=report.order):
        one = sections[name]
        found += [_line(name, result, one.drifted) for result in one.results if result.comparison.goal]
    return found


def svg(sections: Mapping[str, Section]) -> str:
    """Return the picture."""
    console = Console(record=True, file=StringIO(), width=LABEL + WIDTH + 20, force_terminal=True)
    for line in lines(sections):
        console.print(line)
    return console.export_svg(theme=DEFAULT_TERMINAL_THEME, code_format=FRAME, unique_id="bench")


def _line(name: str, result: Result, drifted: str | None) -> Text:
    one = result.comparison
    assert one.goal is not None
    scores = [one.goal / ratio if one.durations else ratio / one.goal for ratio in result.ratios]
    low, high = _place(min(scores)), _place(max(scores))
    bar = [" "] * WIDTH
    bar[low : high + 1] = "─" * (high - low + 1)
    bar[WIDTH // 2] = "│"
    bar[_place(one.goal / result.ratio if one.durations else result.ratio / one.goal)] = "●"
    label = f"{name:<4} {one.what} : {one.against}"
    text = Text(f"{label[: LABEL - 2]:<{LABEL}}")
    text.append("".join(bar), COLOURS[report.verdict(result, drifted)])
    return text.append(f"  {result.ratio:.2f} of {'≤' if one.durations else '≥'} {one.goal:g}")


def _place(score: float) -> int:
    reach = min(max(math.log10(score) / DECADES, -1.0), 1.0)
    return round((reach + 1) / 2 * (WIDTH - 1))
