"""Keyset paging: pages of a list, each with the cursor of the next."""

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import Response
from litestar.params import Parameter, QueryParameter

from service.context import Http

T = TypeVar("T")

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
    items = found[:limit]
    cursor = key(items[-1]) if len(found) > limit else None
    headers = {}
    if cursor is not None:
        given = [(name, value) for name, value in request.query_params.multi_items() if name not in {"limit", "cursor"}]
        query = urlencode([*given, ("limit", limit), ("cursor", cursor)])
        following = f"{request.url.path}?{query}"
        headers["Link"] = f'<{following}>; rel="next"'
    return Response(Page(items, cursor), headers=headers)
