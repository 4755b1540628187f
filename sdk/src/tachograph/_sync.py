"""Deliver what earlier processes had to leave on disk."""

import logging
from pathlib import Path
from typing import NamedTuple

from tachograph import _settings
from tachograph._errors import Conflict, Forbidden, Gone, Invalid, NotFound, Problem, TooLarge, Unauthorized
from tachograph._http import Transport, repeat
from tachograph._spool import SUFFIX, Request, lock, read

log = logging.getLogger("tachograph")

_FINAL = (Invalid, NotFound, Conflict, Gone, TooLarge)


class Synced(NamedTuple):
    """What `sync` did; `skipped` files belong to running processes, or to another service."""

    files: int
    delivered: int
    refused: int
    skipped: list[Path]


def sync(
    directory: str | Path | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    retry_seconds: float = 30.0,
) -> Synced:
    """Send what the spool files of `directory` (default: where `init` leaves them) hold, then remove them.

    Requests have fixed keys, so what had arrived before is not stored twice, and the call may be repeated
    freely. Raises `tachograph.Error` where the service cannot be reached or refuses the key; the file then
    stays.
    """
    access = _settings.access(url, api_key)
    transport = Transport(*access)
    files = delivered = refused = 0
    skipped = []
    for path in sorted(Path(directory or _settings.spool_directory()).glob(f"*{SUFFIX}")):
        with path.open("r+b") as file:
            if not lock(file):
                skipped.append(path)
                continue
            found = read(file)
            if found is not None:
                header, requests = found
                if header.url != access.url:
                    log.warning("tachograph: %s is for %s, not for %s", path, header.url, access.url)
                    skipped.append(path)
                    continue
                for request in requests:
                    if _sent(transport, request, retry_seconds):
                        delivered += 1
                    else:
                        refused += 1
            path.unlink()
            files += 1
    transport.close()
    return Synced(files, delivered, refused, skipped)


def _sent(transport: Transport, request: Request, retry_seconds: float) -> bool:
    try:
        repeat(
            lambda timeout: transport.send(request.method, request.path, request.content, request.headers, timeout),
            for_seconds=retry_seconds,
            attempt_seconds=15.0,
        )
    except (Unauthorized, Forbidden):
        raise
    except Problem as problem:
        if not isinstance(problem, _FINAL):
            raise
        log.warning("tachograph: the service refused %s: %s", request.path, problem)
        return False
    return True
