"""The language of filters over runs, from text to a tree. Pure.

    status IN ('running', 'crashed') AND (config.lr < 1e-3 OR config.`learning rate` IS NULL)
    AND NOT tags = 'smoke' AND name LIKE 'digits-%' AND metrics.val/acc.best >= 0.9 AND created_at > '2026-03-01'

A comparison of what a run does not have is false, `!=` and NOT IN included; IS NULL asks for it. A text is never less,
more or equal to a number. `tags` is true where any tag is, `tags != 'x'` where there are tags and none is 'x'. In LIKE
`%` is any text and `_` any character, `\\` before them means themselves. Texts stand in single quotes (doubled inside),
quoted parts of names in backticks or double quotes. A workflow is named, or given by its id. `status` is understood in
the vocabulary that the caller speaks.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypeVar

import msgspec

from events.types import Status
from events.vocabulary import UnknownWord, meant
from projections.search.fields import TEXT, TIME, TRUTH, Column, Facet, Field, Metric, UnknownFieldError, field
from projections.search.tokens import END, FilterError, Token, tokens

T = TypeVar("T")

MAX_COMPARISONS: Final = 100
MAX_DEPTH: Final = 50
MAX_VALUES: Final = 1_000
COMPARATORS: Final = ("=", "!=", "<", "<=", ">", ">=")

Literal: TypeAlias = str | float | bool | datetime


class Compare(msgspec.Struct, frozen=True):
    """A field against a value; `operator` is one of `COMPARATORS`."""

    field: Field
    operator: str
    value: Literal


class In(msgspec.Struct, frozen=True):
    """A field among values, or not."""

    field: Field
    values: tuple[Literal, ...]
    negated: bool = False


class Like(msgspec.Struct, frozen=True):
    """A text against a pattern with `%` and `_`."""

    field: Field
    pattern: str
    negated: bool = False


class Absent(msgspec.Struct, frozen=True):
    """A field that holds nothing (IS NULL), or something."""

    field: Field
    negated: bool = False


class Not(msgspec.Struct, frozen=True):
    """What does not hold."""

    inner: "Filter"


class And(msgspec.Struct, frozen=True):
    """All of it holds."""

    parts: "tuple[Filter, ...]"


class Or(msgspec.Struct, frozen=True):
    """Any of it holds."""

    parts: "tuple[Filter, ...]"


Filter: TypeAlias = Compare | In | Like | Absent | Not | And | Or


def parse(text: str, *, vocabulary: str | None = None) -> Filter:
    """Return the tree of a filter. Raises `FilterError` with the position and what was expected there."""
    return _Parser(text, vocabulary).whole()


def parse_field(text: str) -> Field:
    """Return the field that a text names, and nothing else. Raises `FilterError`."""
    parser = _Parser(text, None)
    found, _ = parser.field()
    parser.expect_end()
    return found


def fields(tree: Filter) -> Iterator[Field]:
    """Yield every field that a filter looks at."""
    match tree:
        case And() | Or():
            for part in tree.parts:
                yield from fields(part)
        case Not():
            yield from fields(tree.inner)
        case _:
            yield tree.field


class _Parser:
    """Recursive descent: or, and, not, then a comparison or what stands in parentheses."""

    def __init__(self, text: str, vocabulary: str | None) -> None:
        self._tokens: Sequence[Token] = list(tokens(text))
        self._at = 0
        self._depth = 0
        self._comparisons = 0
        self._vocabulary = vocabulary

    def whole(self) -> Filter:
        found = self._or()
        self.expect_end("AND", "OR")
        return found

    def expect_end(self, *or_: str) -> None:
        if self._next.kind != END:
            raise self._wrong(*or_, "the end")

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._next
        self._at += 1
        return token

    def _word(self, *words: str) -> bool:
        """Take keywords that come in this order, or none of them."""
        ahead = self._tokens[self._at : self._at + len(words)]
        if [token.keyword for token in ahead] != list(words):
            return False
        self._at += len(words)
        return True

    def _sign(self, sign: str) -> bool:
        if self._next.kind == "sign" and self._next.text == sign:
            self._at += 1
            return True
        return False

    def _wrong(self, *expected: str, why: str = "") -> FilterError:
        return FilterError(self._next.position, self._next.shown, expected, why)

    def _joined(self, word: str, part: Callable[[], Filter], join: type[And] | type[Or]) -> Filter:
        parts = [part()]
        while self._word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _or(self) -> Filter:
        return self._joined("OR", self._and, Or)

    def _and(self) -> Filter:
        return self._joined("AND", self._unary, And)

    def _unary(self) -> Filter:
        if self._depth >= MAX_DEPTH:
            raise self._wrong(why=f"a filter is nested at most {MAX_DEPTH} deep")
        self._depth += 1
        try:
            if self._word("NOT"):
                return Not(self._unary())
            if self._sign("("):
                inner = self._or()
                if not self._sign(")"):
                    raise self._wrong("AND", "OR", ")")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Filter:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise self._wrong(why=f"a filter has at most {MAX_COMPARISONS} comparisons")
        wanted, _ = self.field()
        if self._word("IS", "NOT", "NULL"):
            return Absent(wanted, negated=True)
        if self._word("IS", "NULL"):
            return Absent(wanted)
        negated = self._word("NOT")
        if self._word("IN"):
            return self._among(wanted, negated=negated)
        if self._word("LIKE"):
            return self._like(wanted, negated=negated)
        if negated:
            raise self._wrong("IN", "LIKE")
        if self._next.kind != "sign" or self._next.text not in COMPARATORS:
            raise self._wrong(*COMPARATORS, "IN", "LIKE", "IS NULL", "IS NOT NULL")
        if _is_status(wanted) and self._next.text not in {"=", "!="}:
            raise self._wrong("=", "!=", "IN", why="a status is one of several words")
        operator = self._take().text
        if operator not in {"=", "!="} and self._next.keyword in {"TRUE", "FALSE"}:
            raise self._wrong("a text or number", why="true and false have no order")
        values = self._literal(wanted)
        if _is_status(wanted):
            return In(wanted, values, negated=operator == "!=")
        return Compare(wanted, operator, values[0])

    def field(self) -> tuple[Field, int]:
        """Take a name: parts joined by dots."""
        start = self._next.position
        parts = [self._part()]
        while self._sign("."):
            parts.append(self._part())
        try:
            return field(parts), start
        except UnknownFieldError as unknown:
            raise FilterError(start, repr(".".join(parts)), ("a field",), str(unknown)) from unknown

    def _part(self) -> str:
        if self._next.kind not in {"name", "quoted"}:
            raise self._wrong("a field")
        return self._take().text

    def _among(self, wanted: Field, *, negated: bool) -> Filter:
        if not self._sign("("):
            raise self._wrong("(")
        values = [*self._literal(wanted)]
        while self._sign(","):
            if len(values) >= MAX_VALUES:
                raise self._wrong(why=f"IN takes at most {MAX_VALUES} values")
            values += self._literal(wanted)
        if not self._sign(")"):
            raise self._wrong(",", ")")
        return In(wanted, tuple(dict.fromkeys(values)), negated)

    def _like(self, wanted: Field, *, negated: bool) -> Filter:
        if isinstance(wanted, Metric) or (isinstance(wanted, Column) and (wanted.kind != TEXT or _is_status(wanted))):
            raise self._wrong(*COMPARATORS, "IN", why="LIKE compares texts")
        if self._next.kind != "text":
            raise self._wrong("a pattern in single quotes")
        escapes = len(self._next.text) - len(self._next.text.rstrip("\\"))
        if escapes % 2:
            raise self._wrong("a pattern that does not end in its escape sign")
        return Like(wanted, self._take().text, negated)

    def _literal(self, wanted: Field) -> tuple[Literal, ...]:
        """Take a value that the field can be compared with; a word for a status may mean several."""
        token = self._next
        kind = "number" if isinstance(wanted, Metric) else None if isinstance(wanted, Facet) else wanted.kind
        if kind == TRUTH or (kind is None and token.keyword in {"TRUE", "FALSE"}):
            if token.keyword not in {"TRUE", "FALSE"}:
                raise self._wrong("true", "false")
            self._at += 1
            return (token.keyword == "TRUE",)
        if kind == TIME:
            return (self._time(),)
        if token.kind == "number" and kind in {None, "number"}:
            self._at += 1
            return (token.number,)
        if token.kind == "text" and kind in {None, TEXT}:
            if _is_status(wanted):
                return self._statuses()
            self._at += 1
            return (token.text,)
        raise self._wrong(
            {None: "a text, number, true or false", TEXT: "a text in single quotes"}.get(kind, "a number")
        )

    def _statuses(self) -> tuple[Status, ...]:
        try:
            found = meant(self._vocabulary, self._next.text)
        except UnknownWord as unknown:
            raise FilterError(self._next.position, self._next.shown, ("a status",), str(unknown)) from unknown
        self._at += 1
        return tuple(sorted(found))

    def _time(self) -> datetime:
        if self._next.kind == "text":
            moment = _moment(self._next.text)
            if moment is not None:
                self._at += 1
                return moment
        raise self._wrong("a time in single quotes such as '2026-01-31T12:00:00Z'")


def _moment(text: str) -> datetime | None:
    """Return a time; a `+` that a query string made a space is taken for what it was."""
    for written in (text, text.replace(" ", "+")):
        try:
            moment = datetime.fromisoformat(written)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
    return None


def _is_status(wanted: Field) -> bool:
    return wanted == Column("status")
