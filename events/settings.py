"""What a process of ours is told by its environment."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

DEFAULT_START_SECONDS = 900.0
MOST: Final = 1 << 53
"""No number in the environment is larger."""

T = TypeVar("T", bound=msgspec.Struct)


class SettingsError(Exception):
    """A variable is missing or cannot be used; the message names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where things are. `database_url` is the application role's, `owner_database_url` the migrating one's."""

    home: Path
    host: str
    port: int
    database_url: str
    owner_database_url: str | None
    nats_url: str
    nats_monitor_url: str | None = None
    webhook_allow_private: bool = False
    master_key: Path
    parquet: Path
    """Where the archive is, unless `archive_url` says so."""
    archive_url: str = ""
    """`s3://bucket/prefix`, or nothing."""
    archive_cache: Path
    archive_cache_bytes: int
    object_store: str = ""
    """A directory, or `s3://bucket/prefix`."""
    start_seconds: float = DEFAULT_START_SECONDS
    """How long a worker that lives may take from its claim to the start of the program."""


class _Cache(msgspec.Struct, frozen=True):
    bytes: int = 10 << 30


def from_environment() -> Settings:
    """Read the `TACHOGRAPH_*` variables. Raises `SettingsError` naming the one that is missing or wrong."""
    home = Path(os.environ.get("TACHOGRAPH_HOME", ".tachograph")).resolve()
    port = os.environ.get("TACHOGRAPH_PORT", "8765")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise SettingsError(f"TACHOGRAPH_PORT is a port number, not {port!r}")
    return Settings(
        home=home,
        host=os.environ.get("TACHOGRAPH_HOST", "127.0.0.1"),
        port=int(port),
        database_url=_required("TACHOGRAPH_DATABASE_URL"),
        owner_database_url=os.environ.get("TACHOGRAPH_OWNER_DATABASE_URL"),
        nats_url=_nats_url("TACHOGRAPH_NATS_URL"),
        webhook_allow_private=os.environ.get("TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE") == "1",
        nats_monitor_url=os.environ.get("TACHOGRAPH_NATS_MONITOR_URL"),
        master_key=Path(os.environ.get("TACHOGRAPH_MASTER_KEY", home / "master.key")),
        parquet=Path(os.environ.get("TACHOGRAPH_PARQUET", home / "parquet")),
        archive_url=os.environ.get("TACHOGRAPH_ARCHIVE_URL", ""),
        archive_cache=Path(os.environ.get("TACHOGRAPH_ARCHIVE_CACHE") or home / "archive-cache"),
        archive_cache_bytes=numbers(_Cache, "TACHOGRAPH_ARCHIVE_CACHE").bytes,
        object_store=os.environ.get("TACHOGRAPH_OBJECT_STORE") or str(home / "objects"),
        start_seconds=seconds("TACHOGRAPH_START_SECONDS", DEFAULT_START_SECONDS),
    )


def numbers(kind: type[T], prefix: str) -> T:
    """Return a Struct of numbers, each as its variable says, `<prefix>_<NAME>`, or its default.

    Raises `SettingsError` naming the variable that is no such number above zero.
    """
    given = {}
    for field in msgspec.structs.fields(kind):
        variable = f"{prefix}_{field.name.upper()}"
        text = os.environ.get(variable)
        if not text:
            continue
        what = "a whole number" if field.type is int else "a number"
        try:
            value = msgspec.convert(text, field.type, strict=False)
        except msgspec.ValidationError:
            value = math.nan
        if not 0 < value <= MOST:
            raise SettingsError(f"{variable} is {what} above zero and at most {MOST}, not {text!r}")
        given[field.name] = value
    return kind(**given)


def seconds(name: str, default: float, environment: Mapping[str, str] = os.environ) -> float:
    """Return a number of seconds, as the variable says, or the default. Raises `SettingsError`."""
    value = environment.get(name)
    if not value:
        return default
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found < math.inf:
        raise SettingsError(f"{name} is {value!r}, not a number of seconds above 0")
    return found


def _nats_url(name: str) -> str:
    url = _required(name)
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in {"nats", "tls"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # what stands for the port
        is_one = False
    if not is_one:
        raise SettingsError(f"{name} is nats://user:password@host:port, or without user and password")
    return url


def _required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise SettingsError(f"{name} is not set; while `make up` runs, `. .tachograph/environment` sets it")
    return value
