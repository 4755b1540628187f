"""Deliver what earlier processes left in their journals: those that were killed, or ended during an outage."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from tachograph import _settings
from tachograph._encoding import MAX_POINTS
from tachograph._errors import Conflict, Error, Forbidden, Gone, Invalid, NotFound, Problem, TooLarge, Unauthorized
from tachograph._frames import Batch, Header, Numbers, Request, decode
from tachograph._http import Transport, repeat
from tachograph._requests import Logged, Requests, logged
from tachograph._settings import Access
from tachograph._spool import LOCKS, SUFFIX, lock, read

log = logging.getLogger("tachograph")

YOUNG_SECONDS: Final = 60.0
"""A file without a header is being made, if it is no older."""

_FINAL = (Invalid, Conflict, Gone, TooLarge)


class Synced(NamedTuple):
    """What `sync` did; `skipped` files belong to running processes, to another service or to runs of others."""

    files: int
    delivered: int
    refused: int
    skipped: list[Path]


def sync(
    directory: str | Path | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    run_id: str | None = None,
    retry_seconds: float = 30.0,
) -> Synced:
    """Send what the journals in `directory` (default: where `init` leaves them) hold, then remove them.

    `run_id` picks those of one run. Requests have fixed keys, so what had arrived before is not stored twice, and
    the call may be repeated freely. Raises `tachograph.Error` where the service cannot be reached or refuses the
    key; the file then stays.
    """
    access = _settings.access(url, api_key)
    return deliver(access, left_behind(directory, run_id), retry_seconds)


def left_behind(directory: str | Path | None = None, run_id: str | None = None) -> list[Path]:
    """Return the journals that are there, those of running processes too."""
    pattern = f"{run_id}-*{SUFFIX}" if run_id else f"*{SUFFIX}"
    return sorted(Path(directory or _settings.spool_directory()).glob(pattern))


def orphaned(run_id: str | None = None) -> list[Path]:
    """Return what may be delivered without being asked: nothing where no lock tells whose process lives."""
    return left_behind(run_id=run_id) if LOCKS else []


def deliver(access: Access, paths: list[Path], retry_seconds: float = 30.0) -> Synced:
    """Send what journals hold; raises as `sync` does."""
    done = Synced(0, 0, 0, [])
    transport = Transport(*access)
    try:
        for path in paths:
            try:
                file = path.open("r+b")
            except FileNotFoundError:
                continue  # its process, or another that delivers, was done with it meanwhile
            with file:
                done = _delivered(transport, file, path, done, retry_seconds)
    finally:
        transport.close()
    return done


def deliver_meanwhile(access: Access, paths: list[Path]) -> None:
    """Send what journals hold, in the background; failures are said and change nothing."""

    def work() -> None:
        try:
            done = deliver(access, paths)
        except (Error, OSError) as error:
            log.warning("tachograph: what earlier processes left could not be delivered yet: %s", error)
            return
        if done.delivered or done.refused:
            log.warning("tachograph: delivered %d requests that earlier processes had left", done.delivered)

    if paths:
        threading.Thread(target=work, name="tachograph-leftovers", daemon=True).start()


def requests_in(header: Header, frames: Iterator[bytes]) -> Iterator[Request]:
    """Yield what a journal was to send: what was made already, then what is made of the pieces that are left.

    The same pieces become the same requests, so whoever is interrupted here begins anew.
    """
    pieces: list[Logged] = []
    seq = change = 0
    for content in frames:
        frame = decode(content, header.format)
        given = frame.last if isinstance(frame, Batch) else frame.after
        seq, change = max(seq, given.seq), max(change, given.change)
        if isinstance(frame, Batch):
            pieces = [piece for piece in pieces if piece.number > frame.through]
            yield from frame.requests
        else:
            pieces.append(logged(frame))
    requests = Requests(header.run_id, header.epoch, header.source, Numbers(seq, change))
    while pieces:
        together = [pieces.pop(0)]
        while pieces and sum(piece.points for piece in together) + pieces[0].points <= MAX_POINTS:
            together.append(pieces.pop(0))
        yield from requests.made_of(together)


def _delivered(transport: Transport, file: BinaryIO, path: Path, done: Synced, retry_seconds: float) -> Synced:
    """Send one journal and remove it; returns what was done with it added."""
    if not lock(file):
        return done._replace(skipped=[*done.skipped, path])
    found, about = read(file), os.fstat(file.fileno())
    if not about.st_nlink or (found is None and time.time() - about.st_mtime < YOUNG_SECONDS):
        return done
    delivered = refused = 0
    if found is not None:
        header, frames = found
        if header.url != transport.url:
            log.warning("tachograph: %s is for %s, not for %s", path, header.url, transport.url)
            return done._replace(skipped=[*done.skipped, path])
        for request in requests_in(header, frames):
            try:
                if _sent(transport, request, retry_seconds):
                    delivered += 1
                else:
                    refused += 1
            except NotFound as problem:
                log.warning("tachograph: %s stays, for this key does not see its run: %s", path, problem)
                return done._replace(skipped=[*done.skipped, path])
    path.unlink(missing_ok=True)
    return Synced(done.files + 1, done.delivered + delivered, done.refused + refused, done.skipped)


def _sent(transport: Transport, request: Request, retry_seconds: float) -> bool:
    try:
        repeat(
            lambda timeout: transport.send(request.method, request.path, request.content, request.headers, timeout),
            for_seconds=retry_seconds,
            attempt_seconds=15.0,
        )
    except (Unauthorized, Forbidden, NotFound):
        raise
    except Problem as problem:
        if not isinstance(problem, _FINAL):
            raise
        log.warning("tachograph: the service refused %s: %s", request.path, problem)
        return False
    return True
