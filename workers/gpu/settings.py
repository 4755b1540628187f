"""What the worker is told by its environment."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from events.settings import SettingsError, seconds

DEFAULT_KEPT_RUNS = 20
DEFAULT_PREPARATION_SECONDS = 600.0
DEFAULT_STOPPING_SECONDS = 600.0
DEFAULT_METRICS_SECONDS = 10.0
DEFAULT_CALL_SECONDS = 10.0

PREPARATION_SECONDS = "TACHOGRAPH_WORKER_PREPARATION_SECONDS"
"""Beyond the server's `TACHOGRAPH_START_SECONDS`, 900 unless set, it fails the run itself."""

STOPPING_SECONDS = "TACHOGRAPH_WORKER_STOPPING_SECONDS"

CALL_SECONDS = "TACHOGRAPH_WORKER_CALL_SECONDS"
"""How long one call of the server may take, its repetitions included, before the worker looks at it again."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The worker's settings. URL and API key are the SDK's to find."""

    nats_url: str
    state: Path
    name: str
    cpu_slots: int | None = None
    visible_devices: str | None = None
    prefix: Path | None = None
    keep_runs: int = DEFAULT_KEPT_RUNS
    volumes: Mapping[str, Path] = {}
    preparation_seconds: float = DEFAULT_PREPARATION_SECONDS
    stopping_seconds: float = DEFAULT_STOPPING_SECONDS
    metrics_seconds: float = DEFAULT_METRICS_SECONDS
    call_seconds: float = DEFAULT_CALL_SECONDS

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
        volumes=_volumes(environment.get("TACHOGRAPH_WORKER_VOLUMES", "")),
        preparation_seconds=seconds(PREPARATION_SECONDS, DEFAULT_PREPARATION_SECONDS, environment),
        stopping_seconds=seconds(STOPPING_SECONDS, DEFAULT_STOPPING_SECONDS, environment),
        metrics_seconds=seconds("TACHOGRAPH_WORKER_METRICS_SECONDS", DEFAULT_METRICS_SECONDS, environment),
        call_seconds=seconds(CALL_SECONDS, DEFAULT_CALL_SECONDS, environment),
    )


def _volumes(text: str) -> dict[str, Path]:
    """Read `name=/directory,…`."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, separator, directory = entry.partition("=")
        if not separator or not name or "/" in name or not Path(directory).is_absolute():
            raise SettingsError(f"TACHOGRAPH_WORKER_VOLUMES has {entry!r}; it is name=/directory, with commas between")
        found[name] = Path(directory)
    return found


def _count(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name)
    if not value:
        return None
    if not value.isdecimal():
        raise SettingsError(f"{name} is {value!r}, not a number of 0 or more")
    return int(value)
