"""What was measured, as Markdown: the machine and its probes, then a table and notes for each benchmark."""

import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from bench.harness import Result

PACKAGES: Final = (
    "litestar",
    "uvicorn",
    "msgspec",
    "asyncpg",
    "nats-py",
    "pyarrow",
    "duckdb",
    "eventsourcing",
    "psycopg",
)


def fdatasync_rate(directory: str) -> float:
    """Return how many 4 KiB writes a second reach the disk one by one."""
    block = os.urandom(4096)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        began = time.perf_counter()
        for _ in range(200):
            os.pwrite(file.fileno(), block, 0)
            os.fdatasync(file.fileno())
        return 200 / (time.perf_counter() - began)


def memcpy_rate() -> float:
    """Return how many bytes a second are copied in memory."""
    source, target = np.ones(1 << 24), np.empty(1 << 24)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - began)
    return source.nbytes / statistics.median(seconds)


def machine(directory: str) -> str:
    """Return what everything ran on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{versions}. Probes: {fdatasync_rate(directory):,.0f} fdatasync/s, {memcpy_rate() / 1e9:.1f} GB/s memcpy. "
        "PostgreSQL with fsync and synchronous_commit on, NATS with sync_interval always."
    )


def section(name: str, results: Sequence[Result], notes: Sequence[str]) -> str:
    """Return one benchmark's table and notes."""
    lines = [f"## {name}", ""]
    if results:
        lines.append("| what | against | ratio (min–max) | goal | met | ours | theirs | CPU ours | CPU theirs |")
        lines.append("|---|---|---|---|---|---|---|---|---|")
    for result in results:
        one = result.comparison
        goal = "–" if one.goal is None else f"{'≤' if one.durations else '≥'} {one.goal:g}"
        met = {True: "yes", False: "no", None: "–"}[result.met]
        lines.append(
            f"| {one.what} | {one.against} | {result.ratio:.2f} ({min(result.ratios):.2f}–{max(result.ratios):.2f}) "
            f"| {goal} | {met} | {result.ours.rate:,.0f} {one.unit}/s | {result.against.rate:,.0f} {one.unit}/s "
            f"| {result.ours.cpu_micros:,.2f} µs | {result.against.cpu_micros:,.2f} µs |"
        )
    return "\n".join([*lines, *([""] if results else []), *(f"- {note}" for note in notes), ""])


def document(about: str, sections: Mapping[str, str]) -> str:
    """Return the whole of RESULTS.md."""
    head = [
        "# Benchmark results",
        "",
        f"Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}. {about}",
        "",
        "Ours and the floor or peer take turns in one run; a ratio is the median of the rounds' ratios of neighbours",
        "in time, with the smallest and largest. Absolute figures are the median rounds', for orientation only; CPU is",
        "that of all processes together, per unit. The machine is shared and noisy.",
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(sections[name] for name in sorted(sections))
