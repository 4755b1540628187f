"""Files of a run: streamed up and down, checked by their SHA-256, taken up again where a connection broke."""

import base64
import hashlib
import mimetypes
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final, Literal, cast
from urllib.parse import quote, urlencode

import msgspec

from tachograph._calls import Calls, route
from tachograph._errors import Conflict, ConnectionFailed
from tachograph._http import repeat
from tachograph._types import Artifact, Json

Kind = Literal["model", "dataset", "image", "table", "code", "file"]
Progress = Callable[[int, int], None]
"""Called with the bytes done and their whole number; what it raises ends the transfer."""

CHUNK_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 16 << 20
"""Of larger files that much at a time; a multiple of what the service stores as one part."""

HELD_SECONDS: Final = 90.0
"""An upload is tried for so long at least: what a service that died was writing stays held for a minute."""


class Artifacts(Calls):
    """The artifact routes as methods."""

    def artifacts(self, run: str, *, kind: Kind | None = None, prefix: str | None = None) -> Iterator[Artifact]:
        """Iterate over a run's artifacts by name, the newest of each name."""
        return self._items(route("runs", run, "artifacts"), {"kind": kind, "prefix": prefix})

    def save_artifact(
        self,
        run: str,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        kind: Kind = "file",
        caption: str | None = None,
        progress: Progress | None = None,
    ) -> Artifact:
        """Upload a file under its own name or another; the same content again changes nothing.

        A large one goes in pieces, and after a cut from the last byte on that the service has stored.
        """
        file = Path(path)
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            digest = hashlib.file_digest(opened, "sha256").digest()
            if size > PIECE_BYTES:
                wanted = {
                    "name": name or file.name,
                    "bytes": size,
                    "kind": kind,
                    "media_type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
                    "caption": caption or "",
                    "sha256": digest.hex(),
                }
                return self._upload(run, opened, wanted, progress)
            query = urlencode({"kind": kind} | ({"caption": caption} if caption else {}))
            target = f"/api/v1{_file(run, name or file.name)}?{query}"
            headers = {
                "Accept": "application/json",
                "Content-Type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
                "Content-Length": str(size),
                "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
            }

            def attempt(timeout: float) -> bytes:
                opened.seek(0)
                body = Watched(opened, size, size, progress)
                return self.transport.send("PUT", target, body, headers, timeout).content

            answer = repeat(
                attempt,
                for_seconds=max(self._retry_seconds, HELD_SECONDS),
                attempt_seconds=self._timeout_seconds,
                pause=self._pause,
            )
        return msgspec.json.decode(answer, type=Artifact)

    def download_artifact(
        self, run: str, name: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> Path:
        """Download a run's file to a path; what is there is replaced once the whole has come and its digest is right.

        Raises `ConnectionFailed` where it goes on breaking off, and where what came is not what was stored.
        """
        target = Path(path)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            part = Path(file.name)
            try:
                etag = repeat(
                    lambda timeout: self._receive(_file(run, name), file.file, timeout, progress),
                    for_seconds=self._retry_seconds,
                    attempt_seconds=self._timeout_seconds,
                    pause=self._pause,
                    mark=lambda: os.fstat(file.fileno()).st_size,
                )
                file.flush()
                file.seek(0)
                _check(name, hashlib.file_digest(file, "sha256").hexdigest(), etag)
                part.chmod(0o666 & ~umask())
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return target

    def _upload(self, run: str, file: IO[bytes], wanted: Json, progress: Progress | None) -> Artifact:
        """Upload in pieces; each may be tried again for as long as any other call."""
        upload = self._ask(dict, "POST", route("runs", run, "uploads"), wanted)
        path = f"/api/v1{route('runs', run, 'uploads', upload['id'])}"
        sure = True

        def piece(timeout: float) -> Json:
            nonlocal upload, sure
            if not sure:
                upload = msgspec.json.decode(self.transport.send("GET", path, timeout_seconds=timeout).content)
            sure = False
            if upload["artifact"] is None:
                offset = file.seek(upload["offset"])
                length = min(PIECE_BYTES, wanted["bytes"] - offset)
                headers = {"Content-Length": str(length), "Upload-Offset": str(offset)}
                body = Watched(file, length, wanted["bytes"], progress)
                try:
                    answer = self.transport.send("PATCH", path, body, headers, timeout)
                except Conflict as conflict:  # what was cut had not let go yet, and stored more than it had said
                    raise ConnectionFailed(f"PATCH {path}: {conflict}") from conflict
                upload = msgspec.json.decode(answer.content)
            sure = True
            return upload

        while upload["artifact"] is None:
            repeat(
                piece,
                for_seconds=max(self._retry_seconds, HELD_SECONDS),
                attempt_seconds=self._timeout_seconds,
                pause=self._pause,
            )
        return cast("Artifact", upload["artifact"])

    def _receive(self, path: str, file: IO[bytes], timeout: float, progress: Progress | None) -> str:
        """Receive what is not there yet; returns the whole content's SHA-256 in hexadecimal."""
        have = file.seek(0, os.SEEK_END)
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self.transport.stream(f"/api/v1{path}", headers, timeout) as answer:
            if answer.status != 206:
                have = file.seek(0)
                file.truncate()
            total = have + int(answer.headers.get("Content-Length", "0"))
            for chunk in answer.chunks(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
            if have != total:
                raise ConnectionFailed(f"GET {path}: cut off after {have} of {total} bytes")
            return answer.headers.get("ETag", "").strip('"')


class Watched:
    """Some bytes of a file whose reading is told on; `read` is what an HTTP connection asks of a body."""

    def __init__(self, file: IO[bytes], length: int, total: int, progress: Progress | None) -> None:
        self._file = file
        self._left = length
        self._total = total
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        chunk = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        if self._progress is not None:
            self._progress(self._file.tell(), self._total)
        return chunk


def _check(name: str, sha256: str, stored: str) -> None:
    if sha256 != stored:
        raise ConnectionFailed(f"{name}: what came is not what was stored")


def _file(run: str, name: str) -> str:
    return f"{route('runs', run, 'artifacts')}/{quote(name, safe='/')}"


def umask() -> int:
    """Return the process's file mode creation mask."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
