"""Files of a run: streamed up and down, checked by their SHA-256, taken up again where a connection broke."""

import base64
import hashlib
import mimetypes
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, Literal, cast
from urllib.parse import quote, urlencode

import msgspec

from tachograph._calls import route
from tachograph._errors import ConnectionFailed
from tachograph._http import repeat
from tachograph._types import Artifact, Json
from tachograph._uploads import HELD_SECONDS, PIECE_BYTES, Progress, Uploads, Watched

Kind = Literal["model", "dataset", "image", "table", "code", "file"]
CHUNK_BYTES: Final = 1 << 20


class Artifacts(Uploads):
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
        upload = self._ask(dict, "POST", route("runs", run, "uploads"), wanted)
        path = f"/api/v1{route('runs', run, 'uploads', upload['id'])}"
        ended = self._in_pieces(path, file, wanted["bytes"], upload, lambda one: one["artifact"] is None, progress)
        return cast("Artifact", ended["artifact"])

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
