"""Which bytes of a file a request wants. Source: RFC 9110, sections 13 and 14."""

import re
from http import HTTPStatus
from typing import Final

import msgspec

STATUS: Final = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
_ONE: Final = re.compile(r"bytes\s*=\s*(\d{0,19})-(\d{0,19})", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range begins behind the end of the file."""


class Range(msgspec.Struct, frozen=True):
    """Bytes from `first` up to and with `last`."""

    first: int
    last: int


def wanted(header: str | None, if_range: str | None, etag: str, size: int) -> Range | None:
    """Return the range that is asked for, or None for the whole file.

    Several ranges, other units, what cannot be read, and a range of another version are answered with the whole file,
    as the RFC wants it. Raises `Unsatisfiable`.
    """
    found = _ONE.fullmatch(header.strip()) if header else None
    if found is None or found.groups() == ("", "") or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        one = Range(int(first), min(int(last), size - 1) if last else size - 1)
    else:
        one = Range(max(0, size - int(last)), size - 1) if int(last) else Range(size, size)
    if one.first >= size:
        raise Unsatisfiable
    return one


def matches(if_none_match: str | None, etag: str) -> bool:
    """Tell whether the caller has this version already."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return bool(tags & {"*", etag})
