"""What the journal of an attempt consists of, and its bytes.

A `Piece` is what was logged in a moment, as it came. A `Batch` is what was made of pieces: requests, byte for byte as
they are sent. It is written before any of them is, so a piece that no batch has covered was never sent, and may be
made into requests anew.
"""

from array import array
from collections.abc import Sequence
from typing import Final

import msgspec

from tachograph._encoding import Line, Rows
from tachograph._types import Json

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
FORMAT: Final = 2
"""Of a file. Those of format 1 hold requests alone, a frame each, and no mark."""

_encode: Final = msgspec.msgpack.Encoder().encode


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One change to send; its bytes are fixed, so that a repeat is recognised as one."""

    method: str
    path: str
    key: str
    content: bytes
    media_type: str
    points: int = 0
    lines: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """What to send with it."""
        return {"Content-Type": self.media_type, "Idempotency-Key": self.key}

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.content) + 200


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose requests these are."""

    format: int = FORMAT
    url: str
    run_id: str
    epoch: int
    source: str


class Numbers(msgspec.Struct, frozen=True, array_like=True):
    """The last numbers that an attempt has given to a batch of telemetry and to a change of the run."""

    seq: int = 0
    change: int = 0


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """`Rows` as bytes, in the machine's own order: float64 values, int64 steps and times."""

    names: tuple[str, ...]
    stage: str | None
    values: bytes
    steps: bytes
    times: bytes


class Piece(msgspec.Struct, frozen=True, array_like=True, tag="piece"):
    """What was logged in a moment; `after` are the numbers given out before it was written."""

    number: int
    after: Numbers
    columns: Sequence[Columns] = ()
    lines: Sequence[Line] = ()
    patches: Sequence[Json] = ()
    primary_metric: Json | None = None
    progress: Json | None = None


class Batch(msgspec.Struct, frozen=True, array_like=True, tag="batch"):
    """Requests in place of every piece up to number `through`, and the numbers given out with them."""

    through: int
    last: Numbers
    requests: list[Request]


Frame = Piece | Batch
_frames: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)
_requests: Final = msgspec.msgpack.Decoder(Request)


def encode(frame: Frame) -> bytes:
    """Return a frame's content."""
    return _encode(frame)


def decode(content: bytes, written_as: int = FORMAT) -> Frame:
    """Return what a frame of a file of some format holds; raises `msgspec.MsgspecError` for what is none."""
    if written_as == 1:
        return Batch(0, Numbers(), [_requests.decode(content)])
    return _frames.decode(content)


def packed(rows: Rows) -> Columns:
    """Return rows as they are written."""
    return Columns(rows.names, rows.stage, rows.values.tobytes(), rows.steps.tobytes(), rows.times.tobytes())


def unpacked(columns: Columns) -> Rows:
    """Return rows as they were logged."""
    rows = Rows(columns.names, columns.stage)
    rows.values, rows.steps, rows.times = array("d"), array("q"), array("q")
    rows.values.frombytes(columns.values)
    rows.steps.frombytes(columns.steps)
    rows.times.frombytes(columns.times)
    return rows
