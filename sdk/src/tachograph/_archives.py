"""Archives of runs and projects: taken out to a file, and brought in from one, taken up again where that broke off."""

import hashlib
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from tachograph._artifacts import CHUNK_BYTES, umask
from tachograph._calls import route, subject
from tachograph._errors import ConnectionFailed, ImportFailed
from tachograph._http import repeat
from tachograph._types import ImportJob, Json
from tachograph._uploads import Uploads

Stages = Callable[[str, int, int], None]
"""Called with what is done, how much of it is, and of how much (0: nobody knows); what it raises ends the transfer."""

MANIFEST: Final = "manifest.json"
ENDED: Final = frozenset({"finished", "failed"})


class Archives(Uploads):
    """The routes of archives as methods."""

    def export_archive(
        self,
        path: str | os.PathLike[str],
        *,
        run: str | None = None,
        project: str | None = None,
        artifacts: bool = False,
        progress: Stages | None = None,
    ) -> Json:
        """Take a run or a project out to a file, perhaps with the contents of artifacts; returns the manifest.

        What is at the path is replaced once the whole archive has come. An export cannot be resumed: where one is cut,
        it begins anew, as long as each attempt gets further than those before. Raises `ConnectionFailed` else.
        """
        target = Path(path)
        source = f"{subject(run, project)}/export/archive{'?artifacts=true' if artifacts else ''}"
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            part = Path(file.name)
            furthest = 0

            def attempt(timeout: float) -> Json:
                nonlocal furthest
                file.seek(0)
                file.truncate()
                with self.transport.stream(f"/api/v1{source}", {}, timeout) as answer:
                    for chunk in answer.chunks(CHUNK_BYTES):
                        file.write(chunk)
                        furthest = max(furthest, file.tell())
                        if progress is not None:
                            progress("received", file.tell(), 0)
                file.flush()
                os.fsync(file.fileno())
                try:
                    with part.open("rb") as written:
                        return manifest_of(written)
                except ImportFailed as error:
                    raise ConnectionFailed(f"GET {source}: cut off after {file.tell()} bytes") from error

            try:
                manifest = repeat(
                    attempt,
                    for_seconds=self._retry_seconds,
                    attempt_seconds=self._timeout_seconds,
                    pause=self._pause,
                    mark=lambda: furthest,
                )
                part.chmod(0o666 & ~umask())
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return manifest

    def import_archive(
        self,
        project: str,
        archive: str | os.PathLike[str] | IO[bytes],
        *,
        dry_run: bool = False,
        progress: Stages | None = None,
        poll_seconds: float = 0.5,
    ) -> ImportJob:
        """Bring an archive's runs into a project, and return the import once it has ended, with its report.

        The archive is a path, or an open file that can seek. Runs that were refused are in the report; `ImportFailed`
        is raised where the archive as a whole is bad.
        The same call again, by another process too, goes on where it was cut off: with the upload, or with waiting.
        `dry_run` checks everything and stores nothing. The stages are `read`, `sent` (bytes) and `runs`.
        """
        with Path(archive).open("rb") if isinstance(archive, str | os.PathLike) else nullcontext(archive) as opened:
            manifest_of(opened)
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            digest = hashlib.sha256()
            while chunk := opened.read(CHUNK_BYTES):
                digest.update(chunk)
                if progress is not None:
                    progress("read", opened.tell(), size)
            job = self._opened_import(project, f"{digest.hexdigest()}/{dry_run}", size, dry_run=dry_run)
            job = self._sent(project, opened, job, progress)
        while job["state"] not in ENDED:
            time.sleep(poll_seconds)
            job = self.import_job(project, job["id"])
            if progress is not None and job["runs"]:
                progress("runs", job["runs_done"], job["runs"])
        report = job.get("report")
        if job["state"] == "failed":
            raise ImportFailed(f"{_name(opened)}: {report['why'] if report else 'no reason is known'}", job)
        return job

    def imports(self, project: str) -> Iterator[ImportJob]:
        """Iterate over a project's imports, newest first, without their reports."""
        return self._items(route("projects", project, "imports"), {})

    def import_job(self, project: str, job: str) -> ImportJob:
        """Return one import, with its report once it has ended."""
        return self._ask(ImportJob, "GET", route("projects", project, "imports", job))

    def discard_import(self, project: str, job: str) -> None:
        """Give an import up, or forget its report; runs that it brought stay."""
        self.request("DELETE", route("projects", project, "imports", job))

    def _opened_import(self, project: str, key: str, size: int, *, dry_run: bool) -> ImportJob:
        """Open the import of some content, or return the one under way; those that have ended are done with."""
        path, body = route("projects", project, "imports"), {"bytes": size, "dry_run": dry_run}
        job = self._ask(ImportJob, "POST", path, body, idempotency_key=key)
        while job["state"] in ENDED:
            job = self._ask(ImportJob, "POST", path, body, idempotency_key=f"{key}/{job['id']}")
        return job

    def _sent(self, project: str, file: IO[bytes], job: ImportJob, progress: Stages | None) -> ImportJob:
        """Upload what the service has not stored yet."""
        path = f"/api/v1{route('projects', project, 'imports', job['id'])}"
        told = None if progress is None else lambda done, total: progress("sent", done, total)
        ended = self._in_pieces(path, file, job["bytes"], job, lambda one: one["state"] == "uploading", told)
        return cast("ImportJob", ended)


def manifest_of(file: IO[bytes]) -> Json:
    """Return what an archive says of itself. Raises `ImportFailed` for a file that is none, or was cut."""
    try:
        with zipfile.ZipFile(file) as archive:
            manifest: Json = msgspec.json.decode(archive.read(MANIFEST), type=dict)
    except (zipfile.BadZipFile, KeyError, EOFError, msgspec.MsgspecError) as error:
        raise ImportFailed(f"{_name(file)} is no archive of an export, or its end is missing ({error})") from error
    return manifest


def _name(file: IO[bytes]) -> str:
    name = getattr(file, "name", None)
    return "the archive" if name is None or isinstance(name, int) else str(name)
