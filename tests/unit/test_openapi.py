"""The description of the API says of every route what it takes, what it answers, and how it refuses."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.commands.migrate import ROOT
from service.openapi import METHODS

DOCUMENT = json.loads((ROOT / "schemas" / "openapi.json").read_text())
BODILESS = ("/logout", "/discard", "/retry", "/test", "/cancel", "/pause", "/resume", "/stop")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method in sorted(METHODS & methods.keys()):
            yield method, path, methods[method]


def references(part: Any) -> Iterator[str]:
    match part:
        case dict():
            yield from (value for key, value in part.items() if key == "$ref" and isinstance(value, str))
            for value in part.values():
                yield from references(value)
        case list():
            for value in part:
                yield from references(value)


@pytest.mark.parametrize(("method", "path", "operation"), list(operations()))
def test_a_route_says_what_it_is(method: str, path: str, operation: dict[str, Any]):
    assert operation["summary"]
    assert operation["summary"][0].isupper()
    assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
    successes = [code for code in operation["responses"] if code.startswith("2")]
    assert successes
    for code in successes:
        assert bool(operation["responses"][code].get("content")) == (code != "204")
    if method in {"post", "put", "patch"} and not path.endswith(BODILESS):
        assert operation["requestBody"]["content"]


def test_what_is_referred_to_is_there():
    for reference in references(DOCUMENT):
        part = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def test_what_is_open_to_everybody_says_so():
    assert {path for _, path, operation in operations() if operation.get("security") == []} == {
        "/api/v1/login", "/healthz", "/readyz", "/schema/events", "/schema/events/{name}", "/schema/openapi.json"
    }  # fmt: skip
    assert {name for one in DOCUMENT["security"] for name in one} == DOCUMENT["components"]["securitySchemes"].keys()
