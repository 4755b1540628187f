"""Uploads in pieces: what the service has stored of a file it says, and from there on it goes after a cut."""

from collections.abc import Callable
from typing import IO, Any, Final

import msgspec

from tachograph._calls import Calls
from tachograph._errors import Conflict, ConnectionFailed
from tachograph._http import repeat

Progress = Callable[[int, int], None]
"""Called with the bytes done and their whole number; what it raises ends the transfer."""

PIECE_BYTES: Final = 16 << 20
"""Of larger files that much at a time; a multiple of what the service stores as one part."""

HELD_SECONDS: Final = 90.0
"""An upload is tried for so long at least: what a service that died was writing stays held for a minute."""


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


class Uploads(Calls):
    """What routes of uploads have in common."""

    def _in_pieces(
        self,
        path: str,
        file: IO[bytes],
        size: int,
        state: Any,
        under_way: Callable[[Any], bool],
        progress: Progress | None,
    ) -> Any:
        """Send what is missing of a file, and return what the service says of the upload once it is over.

        `state` is what it said first, with the `offset` of what is stored. Each piece may be tried again for
        `HELD_SECONDS` or longer.
        """
        sure = True

        def piece(timeout: float) -> None:
            nonlocal state, sure
            if not sure:
                state = msgspec.json.decode(self.transport.send("GET", path, timeout_seconds=timeout).content)
            sure = False
            if under_way(state):
                offset = file.seek(state["offset"])
                length = min(PIECE_BYTES, size - offset)
                headers = {"Content-Length": str(length), "Upload-Offset": str(offset)}
                body = Watched(file, length, size, progress)
                try:
                    answer = self.transport.send("PATCH", path, body, headers, timeout)
                except Conflict as conflict:  # another had it, or what was cut had not let go yet
                    raise ConnectionFailed(f"PATCH {path}: {conflict}") from conflict
                state = msgspec.json.decode(answer.content)
            sure = True

        while under_way(state):
            repeat(
                piece,
                for_seconds=max(self._retry_seconds, HELD_SECONDS),
                attempt_seconds=self._timeout_seconds,
                pause=self._pause,
                mark=lambda: state["offset"],
            )
        return state
