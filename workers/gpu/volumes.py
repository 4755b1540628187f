"""What a run brings in before its start and takes out after its end: artifacts of runs, and volumes of this machine.

`artifact:<run>/<name>` is a file, or everything below `<name>/`. `volume:<name>[/path]` is in a directory that this
worker offers (`TACHOGRAPH_WORKER_VOLUMES`): to bring it in is to link to it, nothing is copied; what is taken out to it
is copied file by file, each whole or not at all.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import tachograph
from workers.gpu.answers import is_locked_out
from workers.gpu.archives import BadArchive, unpack
from workers.gpu.records import RunDirectory, Volume

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_BYTES: Final = 1 << 20
LOCKED_OUT_SECONDS: Final = 5.0


class VolumeFailed(Exception):
    """Something could not be brought in or taken out; the message says what and why."""


class Interrupted(Exception):
    """There is no use in going on: the run is to end."""


class OutOfTime(Exception):
    """What was to be done took too long; the message names the bound, and what stood in the way at last."""


class Patience:
    """Tells copying that goes on in a thread when to give up: when told, or after `seconds`, which `setting` sets.

    `spent_seconds` of them were spent by an earlier agent.
    """

    def __init__(self, seconds: float, setting: str, spent_seconds: float = 0.0) -> None:
        self._given_up = threading.Event()
        self._deadline = time.monotonic() + min(seconds, seconds - spent_seconds)
        self._bound = f"not done within {seconds:g} s ({setting})"
        self._said: type[Exception] | None = None

    def give_up(self) -> None:
        """Stop at the next chunk."""
        self._given_up.set()

    def check(self) -> None:
        """Go on or not. Raises `Interrupted`, `OutOfTime`."""
        if self._given_up.is_set():
            raise Interrupted("the run is to end")
        if time.monotonic() > self._deadline:
            raise OutOfTime(self._bound)

    def wait(self, seconds: float, error: Exception) -> None:
        """Wait before another attempt at what the server did not answer, or refused to this key.

        What stands in the way is logged once, and again when it is something else. Raises `Interrupted`, `OutOfTime`.
        """
        if time.monotonic() + seconds > self._deadline:
            raise OutOfTime(f"{self._bound}; at last: {error}")
        if type(error) is not self._said:
            logger.warning("no answer, trying on: %s", error.__cause__ or error)  # without what was asked for
            self._said = type(error)
        self._given_up.wait(seconds)
        self.check()


class Places:
    """Brings in and takes out for one run.

    Everything here blocks, and every step may be repeated. A server that does not answer, or refuses the worker's key,
    is waited for as long as there is patience.
    """

    def __init__(
        self, directory: RunDirectory, run_id: str, client: tachograph.Client, volumes: Mapping[str, Path]
    ) -> None:
        self._directory = directory
        self._run_id = run_id
        self._client = client
        self._volumes = volumes

    def clear(self) -> None:
        """Begin with an empty directory: an agent that died at this may have left halves. No program has run in it."""
        shutil.rmtree(self._directory.work)
        self._directory.create()

    def fetch_code(self, code: str, patience: Patience) -> str:
        """Unpack a code snapshot into the program's directory; returns what was done.

        Raises `VolumeFailed`, `Interrupted`.
        """
        archive = self._directory.path / "code.zip"
        run, _, name = code.removeprefix("artifact:").partition("/")
        try:
            self._download(run, name, archive, patience)
            files = unpack(archive, self._directory.work, patience.check)
        except (BadArchive, OSError, OutOfTime, tachograph.Error) as error:
            raise VolumeFailed(f"{code}: {error}") from error
        finally:
            archive.unlink(missing_ok=True)
        return f"{files} files of {code}"

    def bring(self, volume: Volume, patience: Patience) -> str:
        """Bring a volume in; returns what was done. Raises `VolumeFailed`, `Interrupted`."""
        target = self._directory.work / volume.path
        kind, _, place = volume.place.partition(":")
        try:
            if kind == "volume":
                self._link(self._offered(volume.place, place), target)
                return f"{volume.place} as {volume.path or '.'}"
            return self._fetch(place, target, patience)
        except (OSError, OutOfTime, tachograph.Error) as error:
            raise VolumeFailed(f"{volume.place}: {error}") from error

    def take(self, volume: Volume, patience: Patience) -> str:
        """Take a file or directory out; returns what was done. Raises `VolumeFailed`, `Interrupted`."""
        source = self._directory.work / volume.path
        kind, _, place = volume.place.partition(":")
        if not source.exists():
            raise VolumeFailed(f"{volume.path or '.'} is not there to be taken to {volume.place}")
        try:
            files = 0
            for path, inner in _files(source):
                patience.check()
                if kind == "volume":
                    _copy(path, self._offered(volume.place, place) / inner, patience)
                else:
                    self._upload(path, place, inner, patience)
                files += 1
        except (OSError, OutOfTime, tachograph.Error) as error:
            raise VolumeFailed(f"{volume.path or '.'} to {volume.place}: {error}") from error
        return f"{files} files of {volume.path or '.'} to {volume.place}"

    def _offered(self, shown: str, place: str) -> Path:
        name, _, inner = place.partition("/")
        root = self._volumes.get(name)
        if root is None:
            offered = ", ".join(sorted(self._volumes)) or "none"
            raise VolumeFailed(f"{shown}: this worker offers no volume {name!r}; it offers {offered}")
        found = (root / inner).resolve()
        if not found.is_relative_to(root.resolve()):
            raise VolumeFailed(f"{shown} leaves its volume")
        return found

    def _link(self, source: Path, target: Path) -> None:
        if not source.exists():
            raise VolumeFailed(f"{source.name!r} is not there")
        if target.is_symlink() and target.readlink() == source:
            return  # brought before a restart
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)

    def _fetch(self, place: str, target: Path, patience: Patience) -> str:
        run, _, name = place.partition("/")
        names = self._patiently(patience, lambda client: [one["name"] for one in client.artifacts(run, prefix=name)])
        if name in names:
            self._download(run, name, target, patience)
            return f"{name} of {run}"
        below = [one for one in names if one.startswith(f"{name}/")]
        if not below:
            raise VolumeFailed(f"run {run} has no artifact {name!r}, and none below it")
        for one in below:
            self._download(run, one, target / one.removeprefix(f"{name}/"), patience)
        return f"{len(below)} files below {name} of {run}"

    def _download(self, run: str, name: str, target: Path, patience: Patience) -> None:
        patience.check()
        target.parent.mkdir(parents=True, exist_ok=True)
        on = _on(patience)
        self._patiently(patience, lambda client: client.download_artifact(run, name, target, progress=on))

    def _upload(self, path: Path, place: str, inner: Path, patience: Patience) -> None:
        name = place if inner == Path() else f"{place}/{inner.as_posix()}"
        on = _on(patience)
        self._patiently(patience, lambda client: client.save_artifact(self._run_id, path, name=name, progress=on))

    def _patiently(self, patience: Patience, ask: Callable[[tachograph.Client], T]) -> T:
        """Ask until there is an answer that is final. Raises `Interrupted`, `OutOfTime`, `tachograph.Problem`."""
        client = self._client.persisting(patience.wait)
        while True:
            try:
                return ask(client)
            except tachograph.Problem as problem:
                if not is_locked_out(problem):
                    raise
                patience.wait(LOCKED_OUT_SECONDS, problem)


def _on(patience: Patience) -> Callable[[int, int], None]:
    """Return what a transfer calls after each chunk, to learn whether to go on."""
    return lambda _done, _total: patience.check()


def _files(source: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a tree, each with its path in it; links to directories (what was brought in) are left out."""
    if source.is_file():
        yield source, Path()
        return
    pending = [source]
    while pending:
        for path in sorted(pending.pop().iterdir()):
            if path.is_dir() and not path.is_symlink():
                pending.append(path)
            elif path.is_file():
                yield path, path.relative_to(source)


def _copy(source: Path, target: Path, patience: Patience) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as reading, temporary.open("wb") as writing:
            while chunk := reading.read(CHUNK_BYTES):
                patience.check()
                writing.write(chunk)
        shutil.copymode(source, temporary)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
