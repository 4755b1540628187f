"""What the worker is told by its environment."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

DEFAULT_KEPT_RUNS = 20


class SettingsError(Exception):
    """A variable is missing or makes no sense; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's settings. URL and API key are the SDK's to find."""

    nats_url: str
    state: Path
    name: str
    cpu_slots: int | None = None
    visible_devices: str | None = None
    prefix: Path | None = None
    keep_runs: int = DEFAULT_KEPT_RUNS

    @property
    def runs(self) -> Path:
        """Where the runs' directories are."""
        return self.state / "runs"


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; raises `SettingsError`."""
    nats_url = environment.get("TACHOGRAPH_NATS_URL")
    if not nats_url:
        raise SettingsError("TACHOGRAPH_NATS_URL is not set: orders and heartbeats travel over NATS")
    kept = _count(environment, "TACHOGRAPH_WORKER_KEEP_RUNS")
    home = Path(environment.get("TACHOGRAPH_HOME") or ".tachograph")
    return Settings(
        nats_url=nats_url,
        state=home.absolute() / "worker",
        name=environment.get("TACHOGRAPH_WORKER_NAME") or socket.gethostname(),
        cpu_slots=_count(environment, "TACHOGRAPH_WORKER_SLOTS"),
        visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
        prefix=Path(sys.prefix) if sys.prefix != sys.base_prefix else None,
        keep_runs=DEFAULT_KEPT_RUNS if kept is None else kept,
    )


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdecimal():
        raise SettingsError(f"{name} is {value!r}, not a number of 0 or more")
    return int(value)
