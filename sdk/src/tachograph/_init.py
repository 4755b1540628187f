"""Open a run: attach to the managed one that this process was started for, or create a tracked one."""

import logging
import os
import platform
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tachograph import _settings
from tachograph._client import Client
from tachograph._encoding import plain
from tachograph._errors import Conflict, Error
from tachograph._http import Pause, sleep
from tachograph._recorder import Attempt, Recorder
from tachograph._run import FINISH_SECONDS, Run
from tachograph._sync import deliver, deliver_meanwhile, orphaned
from tachograph._types import Json, Liveness, RunResource

log = logging.getLogger("tachograph")

DEFAULT_PROJECT: Final = "default"
REACH_SECONDS: Final = 20.0
"""How long `init` tries to reach the service."""
_FORBIDDEN: Final = re.compile(r'[<>:"|?*\x00-\x1f]')

_enabled = True


def set_enabled(enabled: bool) -> None:  # noqa: FBT001 (the value is the message)
    """Switch Tachograph off (or on again) for runs opened from now on: the same calls, without effect."""
    global _enabled  # noqa: PLW0603 (one switch a process is the feature)
    _enabled = enabled


def init(
    project: str | None = None,
    name: str | None = None,
    *,
    workflow: str | None = None,
    config: Any = None,
    path: str | None = None,
    alias: str | None = None,
    tags: Sequence[str] | None = None,
    notes: str | None = None,
    run_id: str | None = None,
    external_id: str | None = None,
    resources: Mapping[str, Any] | None = None,
    estimate_seconds: float | None = None,
    liveness: Liveness | Mapping[str, float] | None = None,
    url: str | None = None,
    api_key: str | None = None,
    finish_seconds: float = FINISH_SECONDS,
) -> Run:
    """Open a run and start to record.

    In a process that a GPU worker started, this is the worker's run: `config`, `tags`, `notes` and `alias`
    are added to it, and what else describes a run is the worker's. Otherwise a tracked run is created in
    `project` (TACHOGRAPH_PROJECT, or `default`; made if there is none) and started. `run_id` takes over an
    existing tracked run instead, `external_id` one that has this id of the caller's own, or creates it.

    `config` is a mapping, a dataclass or an `argparse.Namespace`; `path` is hierarchical, `default` if not
    given; `liveness` sets `beat_seconds`, `unresponsive_seconds`, `crashed_seconds`. Raises
    `tachograph.Error` where the service cannot be reached or refuses; a managed run needs no answer to begin.
    """
    where = normal_path(path)
    settings = _as_config(config)
    if not _enabled:
        run = Run("disabled")
        run.config(settings)
        return run
    managed = _settings.managed_run()
    if managed is not None:
        return _attach(managed, url, settings, tags, notes, alias, finish_seconds)
    client = Client(url, api_key, retry_seconds=REACH_SECONDS, pause=_patience())
    fields = {
        "name": name,
        "workflow": workflow,
        "config": settings or None,
        "path": where,
        "alias": alias,
        "tags": list(tags) if tags is not None else None,
        "notes": notes,
        "resources": resources,
        "estimate_seconds": estimate_seconds,
        "liveness": liveness,
    }
    resource = _found_or_created(client, project, run_id, external_id, fields)
    found = run_id is not None or external_id is not None
    if found and (left := orphaned(resource["id"])):
        _deliver_first(client, left)
    resource = client.start(resource["id"], host=host_facts(), pid=os.getpid())
    deliver_meanwhile(client.access, orphaned())
    recorder = Recorder(client.transport, Attempt(resource["id"], resource["epoch"], "sdk"))
    return Run(
        resource["id"],
        epoch=resource["epoch"],
        resource=resource,
        client=client,
        recorder=recorder,
        beat_seconds=resource["liveness"]["beat_seconds"],
        finish_seconds=finish_seconds,
    )


def _patience() -> Pause:
    """Return what waits before another attempt, and says so the first time."""
    said: list[Error] = []

    def pause(seconds: float, error: Error) -> None:
        if not said:
            said.append(error)
            log.warning("tachograph: cannot begin yet, trying for %g s: %s", REACH_SECONDS, error)
        sleep(seconds, error)

    return pause


def normal_path(path: str | None) -> str:
    """Return a run's path as it is stored: `default` for None, `/` for the root, `a/b` otherwise.

    Raises `ValueError` for what would be no plain place: `..`, control characters, drive letters, over 200
    characters.
    """
    if path is None:
        return "default"
    if not isinstance(path, str):
        raise TypeError(f"path must be a string, not {type(path).__qualname__}")
    parts = [part.strip() for part in path.replace("\\", "/").split("/")]
    parts = [part for part in parts if part]
    if not parts:
        if path.strip() and set(path.strip()) <= {"/", "\\"}:
            return "/"
        raise ValueError("path is empty: leave it out for 'default', or give '/' for the root")
    for part in parts:
        if part in {".", ".."} or part.startswith("~") or _FORBIDDEN.search(part):
            raise ValueError(f"path {path!r} has the part {part!r}, which is not allowed")
    joined = "/".join(parts)
    if len(joined) > 200:
        raise ValueError(f"path has {len(joined)} characters; 200 are allowed")
    return joined


def host_facts() -> Json:
    """Return what to record of this machine."""
    return {
        "hostname": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
    }


def _attach(
    managed: _settings.ManagedRun,
    url: str | None,
    config: Json,
    tags: Sequence[str] | None,
    notes: str | None,
    alias: str | None,
    finish_seconds: float,
) -> Run:
    client = Client(url, managed.token)
    # A run's command may start several programs, and each counts its own batches: the source keeps them
    # apart.
    source = f"sdk-{secrets.token_hex(4)}"
    deliver_meanwhile(client.access, orphaned(managed.run_id))
    recorder = Recorder(client.transport, Attempt(managed.run_id, managed.epoch, source))
    given = {"tags": list(tags) if tags is not None else None, "notes": notes, "alias": alias}
    if changes := {field: value for field, value in given.items() if value is not None}:
        recorder.buffer.replace(**changes)
    run = Run(
        managed.run_id,
        epoch=managed.epoch,
        managed=True,
        outcome=managed.outcome,
        client=client,
        recorder=recorder,
        finish_seconds=finish_seconds,
    )
    if config:
        run.config(config)
    return run


def _deliver_first(client: Client, left: list[Path]) -> None:
    """Send what earlier attempts of the run left: once this one has started, the service refuses it."""
    done = deliver(client.access, left)
    if done.delivered or done.refused:
        log.warning("tachograph: delivered %d requests that an earlier attempt of the run had left", done.delivered)


def _found_or_created(
    client: Client,
    project: str | None,
    run_id: str | None,
    external_id: str | None,
    fields: Mapping[str, Any],
) -> RunResource:
    if run_id is not None:
        if external_id is not None:
            raise TypeError("give either run_id or external_id: a run of one's own id, or of the service's")
        return client.run(run_id)
    where = client.ensure_project(project or os.environ.get("TACHOGRAPH_PROJECT") or DEFAULT_PROJECT)
    if external_id is None:
        return client.create_run(where["id"], mode="tracked", **fields)
    try:
        return client.create_run(where["id"], mode="tracked", external_id=external_id, **fields)
    except Conflict as conflict:
        reference = f"ext:{where['id']}:{external_id}"
        try:
            return client.run(reference)
        except Error:
            raise conflict from None  # another conflict: the name is taken


def _as_config(config: Any) -> Json:
    if config is None:
        return {}
    if not isinstance(config, Mapping) and hasattr(config, "__dict__") and not hasattr(config, "__dataclass_fields__"):
        config = vars(config)
    found = plain(config, "config")
    if not isinstance(found, dict):
        raise TypeError(f"config must be a mapping, a dataclass or a namespace, not {type(config).__qualname__}")
    return found
