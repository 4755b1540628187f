"""A newer description takes what an older one took and gives what it gave; what would not is named."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.golden.compatibility import api_breaks, schema_breaks, subject_breaks
from tests.golden.releases import ROOT, Release, releases

SCHEMAS = ROOT / "schemas"

MISDESCRIBED = {
    "0.1.0.dev1": {
        *(
            f"{route}: a body is required now"  # the description was silent about bodies that handlers read themselves
            for route in (
                "PATCH /api/v1/runs/{run}/uploads/{upload}",
                "POST /api/v1/runs/{run}/logs",
                "POST /api/v1/runs/{run}/metrics",
                "POST /api/v1/runs/{run}/system-metrics",
                "PUT /api/v1/runs/{run}/artifacts/{name}",
            )
        ),
        *(
            f"{route}: application/json is gone"  # never sent: these are bytes, lines or events, or nothing at all
            for route in (
                "DELETE /api/v1/projects/{project}/alerts/{alert} 204",
                "DELETE /api/v1/projects/{project}/webhooks/{webhook} 204",
                "GET /api/v1/artifacts/{artifact} 200",
                "GET /api/v1/projects/{project}/replay 200",
                "GET /api/v1/projects/{project}/stream 200",
                "GET /api/v1/runs/{run}/artifacts/{name} 200",
                "GET /api/v1/runs/{run}/replay 200",
                "GET /api/v1/runs/{run}/stream 200",
            )
        ),
    }
}
"""What a release's description said that its service never did: that it is said no longer breaks nobody."""


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("release", releases(), ids=lambda release: release.directory.name)
def test_nothing_that_was_released_is_broken(release: Release) -> None:
    with release.source() as source:
        older = source / "schemas"
        breaks = [*api_breaks(read(older / "openapi.json"), read(SCHEMAS / "openapi.json"))]
        breaks += subject_breaks(read(older / "asyncapi.yaml"), read(SCHEMAS / "asyncapi.yaml"))
        for file in sorted((older / "events").iterdir()):
            now = SCHEMAS / "events" / file.name
            if now.exists():  # a version that is no longer written has a golden file, and an upcaster
                breaks += schema_breaks(read(file), read(now), file.stem)
    assert set(breaks) == MISDESCRIBED.get(release.directory.name, set())


def of(document: Any, name: str) -> Any:
    """Return the schema of a struct, wherever it is kept."""
    kept = document["components"]["schemas"] if "components" in document else document["$defs"]
    return next(schema for key, schema in kept.items() if key.split("_")[-1] == name)


def remove_field(api: Any) -> None:
    del of(api, "NewRun")["properties"]["config"]


def require_field(api: Any) -> None:
    of(api, "NewRun")["required"] = ["config"]


def drop_from_answer(api: Any) -> None:
    del of(api, "RunResource")["properties"]["status"]


def retype(api: Any) -> None:
    of(api, "RunResource")["properties"]["name"] = {"type": "integer"}


def drop_value(api: Any) -> None:
    of(api, "Mode")["enum"].remove("tracked")


def drop_route(api: Any) -> None:
    del api["paths"]["/api/v1/runs/{run}/kill"]


def drop_parameter(api: Any) -> None:
    listing = api["paths"]["/api/v1/projects/{project}/runs"]["get"]
    listing["parameters"] = [one for one in listing["parameters"] if one["name"] != "status"]


def narrow(api: Any) -> None:
    of(api, "NewRun")["properties"]["notes"] = {"type": "string", "maxLength": 1}


BREAKING: dict[str, tuple[Callable[[Any], None], str]] = {
    "a field is no longer taken": (remove_field, "body.config: is gone"),
    "a field must be given": (require_field, "body.config: is required now"),
    "a field is no longer given": (drop_from_answer, ".status: is gone"),
    "a field is of another type": (retype, "may be integer now"),
    "a value is no longer taken": (drop_value, "'tracked' is no longer taken"),
    "a route is gone": (drop_route, "POST /api/v1/runs/{run}/kill: is gone"),
    "a parameter is gone": (drop_parameter, "?status: is gone"),
    "a bound is narrower": (narrow, "maxLength is 1 now"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_breaking_change_of_the_api_is_named(name: str) -> None:
    change, said = BREAKING[name]
    older = read(SCHEMAS / "openapi.json")
    newer = copy.deepcopy(older)
    change(newer)
    assert any(said in one for one in api_breaks(older, newer))


def test_more_may_be_given_and_may_be_taken() -> None:
    older = read(SCHEMAS / "openapi.json")
    newer = copy.deepcopy(older)
    for name in ("NewRun", "RunResource"):
        of(newer, name)["properties"]["more"] = {"type": "string"}
    of(newer, "RunResource").setdefault("required", []).append("more")
    newer["paths"]["/api/v1/more"] = {"get": {}}
    assert list(api_breaks(older, newer)) == []


def test_a_breaking_change_of_an_event_is_named() -> None:
    older = read(SCHEMAS / "events" / "run.killed.v1.json")
    for change, said in (
        (lambda event: event["properties"].pop("cause"), "cause: is gone"),
        (lambda event: event.setdefault("required", []).append("reason"), "reason: is required now"),
    ):
        newer = copy.deepcopy(older)
        change(of(newer, "RunKilled"))
        assert any(said in one for one in schema_breaks(older, newer, "run.killed"))


def test_a_subject_that_is_gone_is_named() -> None:
    older = read(SCHEMAS / "asyncapi.yaml")
    newer = copy.deepcopy(older)
    newer["channels"]["events"]["address"] = "events.{ledger}"
    del newer["channels"]["telemetry"]["messages"]["run.logs_written"]
    assert len(list(subject_breaks(older, newer))) == 2
