"""What a file may be called, and how callers say what its content is."""

import base64
import binascii
import re
from typing import Any, Final
from urllib.parse import quote

from service.problems import Invalid

MAX_NAME_BYTES: Final = 250
MAX_MEDIA_TYPE_BYTES: Final = 127
DEFAULT_MEDIA_TYPE: Final = "application/octet-stream"

_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]+"  # noqa: S105 (an RFC's word)
_MEDIA_TYPE: Final = re.compile(rf'{_TOKEN}/{_TOKEN}(\s*;\s*{_TOKEN}=({_TOKEN}|"[\x20-\x21\x23-\x5b\x5d-\x7e]*"))*')
_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256\s*=\s*:([A-Za-z0-9+/=]{44}):")


def clean_name(name: str, path: str = "name") -> str:
    """Return a file's name, which may have folders in it. Raises `Invalid` for what climbs or is no name.

    A name is never a path of ours: content lies under ids.
    """
    name = name.strip("/")
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_NAME_BYTES:
        raise Invalid(f"a name has 1 to {MAX_NAME_BYTES} bytes, not {size}", path=path, limit=MAX_NAME_BYTES)
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise Invalid("a name has no empty part, and none that is `.` or `..`", path=path)
    if not name.isprintable() or "\\" in name or "\ufffd" in name:
        raise Invalid("a name is UTF-8 without control characters and backslashes", path=path)
    return name


def clean_media_type(text: str | None, path: str = "Content-Type") -> str:
    """Return a media type. Raises `Invalid`."""
    if not text:
        return DEFAULT_MEDIA_TYPE
    if len(text) > MAX_MEDIA_TYPE_BYTES or not _MEDIA_TYPE.fullmatch(text):
        raise Invalid("this is no media type of at most 127 characters", path=path, limit=MAX_MEDIA_TYPE_BYTES)
    return text


def announced_sha256(headers: Any) -> str | None:
    """Return the SHA-256 that the content must have, in hexadecimal, if a header says so. Source: RFC 9530."""
    for name in ("repr-digest", "content-digest"):
        given = headers.get(name)
        if given is None:
            continue
        found = _SHA256.search(given)
        try:
            digest = base64.b64decode(found[1], validate=True) if found else b""
        except binascii.Error:
            digest = b""
        if len(digest) == 32:
            return digest.hex()
        raise Invalid("a digest is written sha-256=:<base64 of 32 bytes>:", path=name)
    return None


def digest_header(sha256: str) -> str:
    """Return a SHA-256 as a `Repr-Digest` says it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def disposition(name: str) -> str:
    """Return a `Content-Disposition` that saves the file, never shows it. Source: RFC 6266."""
    return f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}"
