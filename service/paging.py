"""Keyset paging: pages of a list, each with the cursor of the next."""

import base64
from collections.abc import Callable
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import Response
from litestar.params import Parameter, QueryParameter

from service.context import Http
from service.problems import Invalid

T = TypeVar("T")
P = TypeVar("P", bound=msgspec.Struct)

Size = Annotated[int, Parameter(ge=1, le=1_000, description="how many at most")]


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page; `next_cursor` is None on the last."""

    items: list[T]
    next_cursor: str | None


Vocabulary = Annotated[
    str | None,
    QueryParameter(
        name="as", description="whose words for a status: wandb, mlflow, vessl, datature, finetuner, runicorn"
    ),
]


def page(request: Http, found: list[T], limit: int, key: Callable[[T], str]) -> Response[Page[T]]:
    """Return a page of `limit` out of the `limit + 1` that were looked up, with a `Link` to the next."""
    return linked(request, found[:limit], key(found[limit - 1]) if len(found) > limit else None)


def linked(request: Http, items: list[T], cursor: str | None) -> Response[Page[T]]:
    """Return a page, with a `Link` to the next where there is one."""
    headers = {}
    if cursor is not None:
        given = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        query = urlencode([*given, ("cursor", cursor)])
        following = f"{request.url.path}?{query}"
        headers["Link"] = f'<{following}>; rel="next"'
    return Response(Page(items, cursor), headers=headers)


def sealed(place: msgspec.Struct) -> str:
    """Return a cursor that says where a page ended."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode()


def opened(cursor: str, kind: type[P]) -> P:
    """Return what a cursor says. Raises `Invalid`."""
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(cursor), type=kind)
    except (ValueError, msgspec.DecodeError) as error:
        raise foreign() from error


def numbered(cursor: str) -> int:
    """Return the number that a cursor is, 0 where there is none. Raises `Invalid`."""
    if cursor and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
        raise foreign()
    return int(cursor or 0)


def foreign(path: str = "cursor") -> Invalid:
    """Return the refusal of a cursor that no page had."""
    return Invalid("this is no cursor of this list: take the one that its last page gave, or begin without", path=path)
