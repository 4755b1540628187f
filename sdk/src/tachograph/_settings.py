"""Where the service is and which key to use: arguments, then the environment, then the credentials file."""

import getpass
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from tachograph._errors import NotConfigured


class Access(NamedTuple):
    """How to reach the service; `key` is an API key or a run token."""

    url: str
    key: str


class ManagedRun(NamedTuple):
    """The run that a GPU worker started this process for."""

    run_id: str
    token: str
    epoch: int
    project: str
    outcome: Path | None
    """Where this process says how its run ends, for the worker to report once all of it has ended."""


class _Credentials(msgspec.Struct):
    url: str | None = None
    api_key: str | None = None


def home() -> Path:
    """Return the directory of this machine's Tachograph files; it may not exist."""
    return Path(os.environ.get("TACHOGRAPH_HOME") or ".tachograph")


def access(url: str | None = None, api_key: str | None = None) -> Access:
    """Find URL and key.

    Raises `NotConfigured` naming the places that were looked at.
    """
    stored = _stored()
    # A key goes only to the service it belongs to: the stored key is not sent to another URL given here.
    given_url = url or os.environ.get("TACHOGRAPH_URL")
    key = api_key or os.environ.get("TACHOGRAPH_API_KEY")
    if key is None and (given_url is None or given_url.rstrip("/") == (stored.url or "").rstrip("/")):
        key = stored.api_key
    if not key:
        raise NotConfigured(
            "no API key: pass api_key=, set TACHOGRAPH_API_KEY, or point TACHOGRAPH_HOME at a directory"
            f" with a credentials.json for this service (looked in {home() / 'credentials.json'})"
        )
    return Access((given_url or stored.url or _default_url()).rstrip("/"), key)


def managed_run() -> ManagedRun | None:
    """Return the run that this process was started for, or None."""
    run_id, token = os.environ.get("TACHOGRAPH_RUN_ID"), os.environ.get("TACHOGRAPH_RUN_TOKEN")
    if not run_id or not token:
        return None
    epoch = os.environ.get("TACHOGRAPH_EPOCH", "1")
    if not epoch.isdecimal():
        raise NotConfigured(f"TACHOGRAPH_EPOCH is {epoch!r}, not a number")
    outcome = os.environ.get("TACHOGRAPH_OUTCOME")
    return ManagedRun(
        run_id, token, int(epoch), os.environ.get("TACHOGRAPH_PROJECT", ""), Path(outcome) if outcome else None
    )


def spool_directory() -> Path:
    """Return where journals are: in TACHOGRAPH_SPOOL, under TACHOGRAPH_HOME, or else in a temporary directory."""
    if place := os.environ.get("TACHOGRAPH_SPOOL"):
        return Path(place)
    if "TACHOGRAPH_HOME" in os.environ or home().is_dir():
        return home().absolute() / "spool"
    return Path(tempfile.gettempdir()) / f"tachograph-spool-{getpass.getuser()}"


def _stored() -> _Credentials:
    path = home() / "credentials.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Credentials)
    except FileNotFoundError:
        return _Credentials()
    except (OSError, msgspec.DecodeError) as error:
        raise NotConfigured(f"{path} cannot be read: {error}") from error


def _default_url() -> str:
    return f"http://127.0.0.1:{os.environ.get('TACHOGRAPH_PORT') or 8765}"
