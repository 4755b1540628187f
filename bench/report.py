"""What was measured, as Markdown: a table and notes for each benchmark."""

import re
from collections.abc import Iterable, Mapping

from bench.harness import Result
from bench.results import Section

HEAD = """\
# Benchmark results

Written by `make bench`, or by `make bench P=... KEEP=1` for some of it. PostgreSQL with fsync and synchronous_commit
on, NATS with sync_interval always. Ours and the floor or peer take turns in one run; a ratio is the median of the
rounds' ratios of neighbours in time, with the smallest and largest. Absolute figures are the median rounds', for
orientation only; CPU is that of all processes together, per unit. Before and after each benchmark the machine is
probed; where the probes differ by more than a factor of two, no goal is judged.

![Each ratio against its goal](RESULTS.svg)
"""
COLUMNS = ("what", "against", "ratio (min–max)", "goal", "met", "ours", "theirs", "CPU ours", "CPU theirs")


def order(name: str) -> tuple[int, str]:
    """Return by what benchmarks are sorted: P2 before P11."""
    number = re.fullmatch(r"P(\d+)", name)
    return (int(number[1]) if number else 1_000, name)


def verdict(result: Result, drifted: str | None) -> str:
    """Return whether a goal was met, in a word."""
    if result.met is None:
        return "–"
    if drifted:
        return "not judged"
    return "yes" if result.met else "no"


def section(name: str, one: Section) -> str:
    """Return one benchmark's table and notes."""
    lines = [f"## {name}", ""]
    if one.results:
        lines += [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
        lines += [_row(_cells(result, one.drifted)) for result in one.results]
        lines.append("")
    lines += [f"- {note}" for note in one.notes]
    if one.drifted:
        lines.append(f"- **Not judged**: {one.drifted}.")
    lines.append(
        f"- {one.measured_on}: {one.machine}. Before: {one.before}; after: {one.after}; "
        f"load average {one.load_average:.1f}."
    )
    return "\n".join([*lines, ""])


def document(sections: Mapping[str, Section]) -> str:
    """Return the whole of RESULTS.md."""
    return "\n".join([HEAD, *(section(name, sections[name]) for name in sorted(sections, key=order))])


def _cells(result: Result, drifted: str | None) -> list[str]:
    one = result.comparison
    return [
        one.what,
        one.against,
        f"{result.ratio:.2f} ({min(result.ratios):.2f}–{max(result.ratios):.2f})",
        "–" if one.goal is None else f"{'≤' if one.durations else '≥'} {one.goal:g}",
        verdict(result, drifted),
        f"{result.ours.rate:,.0f} {one.unit}/s",
        f"{result.against.rate:,.0f} {one.unit}/s",
        f"{result.ours.cpu_micros:,.2f} µs",
        f"{result.against.cpu_micros:,.2f} µs",
    ]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
