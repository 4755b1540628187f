"""Bytes of an output file -> lines of a log, pure.

A line ends with a newline. A progress bar redraws its line with carriage returns: of such a line its last state is
kept, and while it goes on one state every few seconds. Longer lines than the limit are cut, between characters.
Bytes that are no UTF-8 are replaced. Every line knows where in the file it ends, so that reading can go on there.
"""

from typing import NamedTuple

LINE_LIMIT_BYTES = 8192
PROGRESS_SECONDS = 5.0


class Line(NamedTuple):
    """A line, and the offset of the first byte after it."""

    text: str
    end: int


class LineSplitter:
    """Cuts a file, fed in chunks from `offset` on, into lines."""

    def __init__(
        self, offset: int = 0, *, limit_bytes: int = LINE_LIMIT_BYTES, progress_seconds: float = PROGRESS_SECONDS
    ) -> None:
        self._start = offset  # where `_rest` begins in the file
        self._rest = b""
        self._limit = limit_bytes
        self._progress_seconds = progress_seconds
        self._shown_at: float | None = None  # when this progress bar was last shown

    def feed(self, chunk: bytes, now: float) -> list[Line]:
        """Return the lines that `chunk` completes; `now` is in seconds, of any clock that does not go back."""
        lines: list[Line] = []
        *complete, rest = (self._rest + chunk).split(b"\n")
        for piece in complete:
            self._take(piece, self._start + len(piece) + 1, lines)
            self._shown_at = None
        self._rest = rest
        self._redraw(now, lines)
        self._cut(lines)
        return lines

    def finish(self) -> list[Line]:
        """Return what is left when no more will come: a last line without a newline."""
        lines: list[Line] = []
        if self._rest:
            self._take(self._rest, self._start + len(self._rest), lines, only_if_visible=True)
            self._rest = b""
        return lines

    def _take(self, piece: bytes, end: int, lines: list[Line], *, only_if_visible: bool = False) -> None:
        """Add the line that `piece` leaves on a screen."""
        begin, visible = _visible(piece)
        start = self._start + begin
        while len(visible) > self._limit:
            head = _whole_characters(visible, self._limit)
            start += len(head)
            lines.append(Line(head.decode(errors="replace"), start))
            visible = visible[len(head) :]
        if visible or not only_if_visible:
            lines.append(Line(visible.decode(errors="replace"), end))
        self._start = end

    def _redraw(self, now: float, lines: list[Line]) -> None:
        """Drop the states of an unfinished line that were drawn over; show one of them every few seconds."""
        if b"\r" not in self._rest:
            return
        begin = _visible(self._rest)[0]
        if begin == 0:
            return
        due = self._shown_at is None or now - self._shown_at >= self._progress_seconds
        drawn_over = _visible(self._rest[:begin])[1]
        if due and drawn_over:
            self._shown_at = now
            cut = _whole_characters(drawn_over, self._limit)
            lines.append(Line(cut.decode(errors="replace"), self._start + begin))
        self._start += begin
        self._rest = self._rest[begin:]

    def _cut(self, lines: list[Line]) -> None:
        """Do not hold more than one line's limit of an unfinished line."""
        while len(self._rest) > self._limit:
            head = _whole_characters(self._rest, self._limit)
            self._start += len(head)
            visible = _visible(head)[1]
            if visible:
                lines.append(Line(visible.decode(errors="replace"), self._start))
            self._rest = self._rest[len(head) :]


def _visible(piece: bytes) -> tuple[int, bytes]:
    """Return what carriage returns leave of a line: its last state that is not empty, and where that begins."""
    end = len(piece)
    while end and piece[end - 1] == 0x0D:
        end -= 1
    begin = piece.rfind(b"\r", 0, end) + 1
    return begin, piece[begin:end]


def _whole_characters(data: bytes, limit: int) -> bytes:
    """Return at most `limit` bytes from the front that end between UTF-8 characters."""
    if len(data) <= limit:
        return data
    cut = limit
    while cut > limit - 3 and data[cut] & 0xC0 == 0x80:  # a continuation byte: its character began earlier
        cut -= 1
    return data[: cut if data[cut] & 0xC0 != 0x80 else limit]
