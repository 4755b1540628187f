"""Content-Encoding of request bodies: gzip and zstd, never inflated past what a body may hold."""

from typing import Final

import pyarrow as pa

from events.errors import TooLarge
from service.problems import Malformed, Unsupported

CODECS: Final = {"gzip": "gzip", "x-gzip": "gzip", "zstd": "zstd"}
CHUNK_BYTES: Final = 256 << 10


def inflated(raw: bytes, encoding: str, limit: int) -> bytes:
    """Return what a body holds; as it is where it has no encoding.

    Raises `Unsupported`, `Malformed` where it is cut off or no such stream, and `TooLarge` where it holds more than
    `limit` bytes: then no more than a chunk beyond that was ever inflated.
    """
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return raw
    codec = CODECS.get(encoding)
    if codec is None:
        raise Unsupported(f"the content encoding {encoding!r}; there are gzip and zstd", accept_encoding="gzip, zstd")
    if not raw:
        raise Malformed(f"an empty body is no {codec} stream")
    chunks = []
    size = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(raw), codec) as stream:
            while chunk := stream.read(min(CHUNK_BYTES, limit + 1 - size)):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"a body that holds over {limit} bytes once it is inflated", limit=limit)
    except (OSError, pa.ArrowException) as error:
        raise Malformed(f"the body is no whole {codec} stream: {error}") from error
    return b"".join(chunks)
