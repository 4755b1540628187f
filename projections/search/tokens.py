"""The words of a filter: names, quoted names, texts, numbers and signs, each with its position. Pure."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from events.errors import LedgerError

MAX_CHARACTERS: Final = 8_192
KEYWORDS: Final = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "IS", "NULL", "TRUE", "FALSE"})
END: Final = "end"

_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<name>(?<=\.)[\w/:-]+|[^\W\d][\w/:-]*)
    | (?P<number>[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>`(?:[^`]|``)*`|"(?:[^"]|"")*")
    | (?P<sign><=|>=|!=|<>|==|[=<>(),.])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


class FilterError(LedgerError):
    """A filter, sort or column that cannot be read: where (a character, from 0), and what was expected there."""

    def __init__(self, position: int, found: str, expected: Sequence[str], why: str = "") -> None:
        said = f"; {why}" if why else ""
        wanted = f", expected {' or '.join(expected)}" if expected else ""
        super().__init__(f"at character {position}: found {found}{wanted}{said}")
        self.position = position
        self.parameter = "filter"
        self.expected = tuple(expected)


class Token(msgspec.Struct, frozen=True):
    """A word; `text` is what its quotes hold."""

    kind: str
    text: str
    position: int

    @property
    def keyword(self) -> str | None:
        """The keyword that it is, in capitals."""
        word = self.text.upper()
        return word if self.kind == "name" and word in KEYWORDS else None

    @property
    def number(self) -> float:
        """Its value."""
        return float(self.text) + 0.0

    @property
    def shown(self) -> str:
        """How a message shows it."""
        return "the end" if self.kind == END else repr(self.text[:40])


def tokens(text: str) -> Iterator[Token]:
    """Yield the words of a filter, the end included. Raises `FilterError`."""
    if len(text) > MAX_CHARACTERS:
        raise FilterError(MAX_CHARACTERS, "more", (), f"a filter has at most {MAX_CHARACTERS} characters")
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            rest = text[at:].lstrip()
            position = len(text) - len(rest)
            raise FilterError(position, repr(rest[:20]), ("a field", "a value", "an operator"), _why(rest))
        kind = match.lastgroup or END
        yield _token(kind, match[kind], match.start(kind))
        if kind == END:
            return
        at = match.end()


def _token(kind: str, raw: str, position: int) -> Token:
    token = Token(kind, raw, position)
    if kind in {"text", "quoted"}:
        token = Token(kind, raw[1:-1].replace(raw[0] * 2, raw[0]), position)
        if "\x00" in raw or any("\ud800" <= sign <= "\udfff" for sign in raw):
            raise FilterError(position, repr(raw[:20]), ("text without NUL and surrogates",))
    elif kind == "number" and not math.isfinite(token.number):
        raise FilterError(position, repr(raw[:40]), ("a number of 64 bits",))
    elif kind == "sign":
        token = Token(kind, {"<>": "!=", "==": "="}.get(raw, raw), position)
    return token


def _why(rest: str) -> str:
    opened = {"'": "a text", "`": "a quoted name", '"': "a quoted name"}.get(rest[:1])
    return f"{opened} is never closed" if opened else ""
