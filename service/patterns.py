"""What names look like: patterns for the generated descriptions, and the same rules as sentences for people."""

import re
from collections.abc import Mapping
from typing import Final

NAME: Final = r"^(?! )[^\x00-\x1f\x7f/:][^\x00-\x1f\x7f]*(?<! )$(?!\n)"
PROJECT_NAME: Final = r"^(?! |\.{1,2}$)[^\x00-\x1f\x7f/:\\]+(?<! )$(?!\n)"
EXTERNAL_ID: Final = r"^[^\x00-\x1f\x7f/]+$(?!\n)"
TAG: Final = r"^(?! )[^\x00-\x1f\x7f]+(?<! )$(?!\n)"
LINE: Final = r"^[^\x00-\x1f\x7f]*$(?!\n)"
LABEL: Final = r"^[^\x00-\x1f\x7f]+$(?!\n)"
NO_NUL: Final = r"^[^\x00]*$"
VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)"
PARAMETER: Final = r"^[A-Za-z_][A-Za-z0-9_.-]*$(?!\n)"
SHA256: Final = r"^[0-9a-f]{64}$(?!\n)"

RULES: Final[Mapping[str, str]] = {
    NAME: "a name has no control characters, no space around it, and begins with neither a slash nor a colon",
    PROJECT_NAME: "a project's name stands in paths: no slash, backslash, colon or control characters,"
    " no space around it, and not `.` or `..`",
    EXTERNAL_ID: "an external id stands in paths: no slash and no control characters",
    TAG: "a tag has no control characters and no space around it",
    LINE: "this is one line: no control characters",
    LABEL: "this is one line, and not empty: no control characters",
    NO_NUL: "this has no NUL",
    VARIABLE: "a variable's name has letters, digits and `_`, and begins with no digit",
    PARAMETER: "a parameter's name has letters, digits, `_`, `.` and `-`, and begins with a letter or `_`",
    SHA256: "a SHA-256 is 64 hexadecimal digits in lower case",
}

_REFUSED: Final = re.compile(r"^Expected `str` matching regex '(.*)'$")


def in_words(message: str) -> str:
    """Return a validation message with the rule instead of its pattern, where it has one."""
    found = _REFUSED.match(message)
    if found is None:
        return message
    return next((rule for pattern, rule in RULES.items() if found[1] in (pattern, repr(pattern)[1:-1])), message)
