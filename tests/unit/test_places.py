"""Where a body was refused: msgspec's path with the keys that it leaves out."""

from typing import Annotated

import msgspec
import pytest

from service.places import MOST_KEYS, given, place

Name = Annotated[str, msgspec.Meta(pattern="^[a-z.]+$")]


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    low: int = 0
    marks: dict[str, int] = {}


class Body(msgspec.Struct):
    named: dict[Name, Inner] = {}
    listed: list[dict[str, int]] = []
    number: float = 0


def refused(raw: bytes) -> str:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(raw, type=Body)
    return str(error.value)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"named": {"a": {}, "b": {"low": "1"}}}', "$.named.b.low"),
        (b'{"named": {"a": {}, "b.c": {"low": "1"}}}', "$.named['b.c'].low"),
        (b'{"named": {"a": {}, "b": {"marks": {"x": 1, "y": "2"}}}}', "$.named.b.marks.y"),
        (b'{"named": {"a": {}, "b": {"high": 1}}}', "$.named.b"),
        (b'{"named": {"a": {}, "B C": {}}}', "$.named['B C']"),
        (b'{"listed": [{"x": 1}, {"x": 1, "y": "2"}]}', "$.listed[1].y"),
        (b'{"listed": [{"x": "1"}], "named": {"a": {"low": "1"}}}', "$.listed[0].x"),
        (b'{"number": "1"}', "$.number"),
        (b"[]", "$"),
    ],
)
def test_the_entry_that_is_refused_alone_is_named(raw: bytes, path: str) -> None:
    assert place(Body, raw, refused(raw)) == path


@pytest.mark.parametrize(
    "raw",
    [
        b'{"listed": [{"x": "1"}], "number": 1e999}',  # no plain value either
        b'{"named": {%s, "z": {"low": "1"}}}' % b", ".join(b'"%s": {}' % (b"a" * n) for n in range(1, MOST_KEYS + 1)),
    ],
)
def test_where_that_cannot_be_told_the_path_is_as_it_was(raw: bytes) -> None:
    message = refused(raw)
    assert place(Body, raw, message) == given(message)
    assert "[...]" in given(message)
