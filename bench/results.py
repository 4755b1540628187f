"""What was measured, kept as JSON beside the pages that are made of it: `results.json`, `RESULTS.md`, `RESULTS.svg`."""

import importlib.metadata
import os
import platform
from datetime import date
from pathlib import Path
from typing import Final

import msgspec

from bench.harness import Result
from bench.probes import Probes, drift

KEPT: Final = Path(__file__).with_name("results.json")
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


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark: when and on what it ran, the probes around it, and what came of it."""

    measured_on: date
    machine: str
    before: Probes
    after: Probes
    load_average: float
    """Processes that wanted a core in the minute before it ended, its own included."""
    results: list[Result]
    notes: list[str]

    @property
    def drifted(self) -> str | None:
        """Why no goal can be judged; None where the machine stayed what it was."""
        return drift(self.before, self.after)


def machine() -> str:
    """Return what everything runs on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"{versions}"
    )


def load() -> dict[str, Section]:
    """Return what was kept, by benchmark."""
    return msgspec.json.decode(KEPT.read_bytes(), type=dict[str, Section]) if KEPT.exists() else {}


def keep(sections: dict[str, Section]) -> dict[str, Section]:
    """Put benchmarks in the place of their older selves, and return all."""
    everything = load() | sections
    KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")
    return everything
