"""What names and hierarchical paths of runs may be."""

import re
from typing import Final
from uuid import UUID

from service.problems import Invalid

MAX_PATH: Final = 200
_PATH: Final = re.compile(r"[A-Za-z0-9_/-]+")


def clean_path(path: str | None) -> str:
    """Return a run's path: None is `default`, `/` or nothing the root, backslashes count as slashes.

    Raises `Invalid` for anything but letters, digits, `_`, `-` and `/`, which `..` is not made of.
    """
    if path is None:
        return "default"
    slashed = path.replace("\\", "/")
    if slashed in {"", "/"}:
        return "/"
    parts = [part for part in slashed.split("/") if part]
    if not parts or not _PATH.fullmatch(slashed):
        raise Invalid(f"{path!r} is no path: letters, digits, `_` and `-`, between slashes", path="$.path")
    clean = "/".join(parts)
    if len(clean) > MAX_PATH:
        raise Invalid(f"a path has {MAX_PATH} characters at most", path="$.path", limit=MAX_PATH)
    return clean


def no_id(name: str) -> str:
    """Return a name under which something is looked up. Raises `Invalid` if it reads like an id."""
    try:
        UUID(name)
    except ValueError:
        return name
    raise Invalid("a name does not look like an id: it could not be found by it", path="$.name")
