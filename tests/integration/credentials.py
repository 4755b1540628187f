"""API keys that tests make for themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from events.ids import uuid7
from tests.api import Api, Json, accepted


def issued(api: Api, role: str, **fields: Any) -> Json:
    """Make a key and return the whole answer."""
    body = {"name": f"{role} {uuid7()}", "role": role, **fields}
    return accepted(api.client.post("/keys", json=body), 201)


@contextmanager
def holding(api: Api, role: str, **fields: Any) -> Iterator[httpx.Client]:
    """A client with a new key."""
    with api.as_caller(issued(api, role, **fields)["api_key"]) as client:
        yield client
