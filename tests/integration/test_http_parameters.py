"""Parameters, headers and methods over HTTP: what is refused, and what is said of it."""

from typing import Any

import pytest

from tests.api import Api, Project, refused


def test_a_parameter_says_what_it_can_be(project: Project):
    run = project.started()
    (error,) = refused(project.api.get(f"/runs/{run['id']}/export", params={"format": "xls"}), 422)["errors"]
    assert error["path"] == "$.format"
    assert "parquet" in error["expected"]
    assert "parquet" in error["message"]


def test_a_path_says_which_methods_it_has(api: Api, project: Project):
    run = project.started()
    for path, methods in (
        ("/projects", "GET, OPTIONS, POST"),
        (f"/projects/{project.id}", "GET, OPTIONS, PATCH"),
        (f"/projects/{project.id}/runs", "GET, OPTIONS, POST"),
        (f"/runs/{run['id']}", "DELETE, GET, OPTIONS, PATCH"),
        (f"/runs/{run['id']}/kill", "OPTIONS, POST"),
        (f"/runs/{run['id']}/metrics", "GET, OPTIONS, POST"),
    ):
        answer = api.client.request("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (204, methods), path
    refused(api.client.request("OPTIONS", "/nowhere"), 404)


@pytest.mark.parametrize(
    ("path", "parameters", "status"),
    [
        ("/projects/{project}/events", {"limit": 0}, 422),
        ("/projects/{project}/events", {"limit": 1_001}, 422),
        ("/projects/{project}/events", {"limit": "many"}, 422),
        ("/projects/{project}/events", {"after": "x"}, 422),
        ("/projects/{project}/events", {"after": 10**20}, 422),
        ("/projects/{project}/events", {"after": -1}, 422),
        ("/projects/{project}/events", {"after": 1 << 63}, 422),
        ("/runs/{run}/events", {"after": 1 << 63}, 422),
        ("/projects/{project}/events", {"after": 10**9}, 422),
        ("/runs/{run}/events", {"after": 10**9}, 422),
        ("/projects/{project}/events", {"types": "\0"}, 422),
        ("/projects/{project}/runs", {"status": "asleep"}, 422),
        ("/projects/{project}/runs", {"cursor": "x"}, 422),
        ("/projects/{project}/runs", {"cursor": "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5Lng="}, 422),
        ("/projects/{project}/runs", {"workflow": "\0"}, 422),
        ("/projects", {"cursor": "\0"}, 422),
        ("/projects/%00", {}, 422),
        ("/runs/ext:{project}:%00", {}, 422),
        ("/runs/{run}", {"at": "yesterday"}, 422),
        ("/runs/{run}", {"at": "0001-01-01T00:00:00+23:59"}, 422),
        ("/runs/{run}/chart", {}, 400),
        ("/runs/{run}/chart", {"metric": "a", "x": "metric:"}, 422),
        ("/runs/{run}/chart", {"metric": "a", "from": "soon"}, 422),
        ("/runs/{run}/chart", {"metric": "a", "from": "nan"}, 422),
        ("/runs/{run}/chart", {"metric": "a", "to": "inf"}, 422),
        ("/runs/{run}/chart", {"metric": "a", "buckets": 20_001}, 413),
        ("/runs/{run}/chart", {"metric": [f"m{index}" for index in range(201)]}, 413),
        ("/runs/{run}/logs", {"tail": 10_001}, 413),
        ("/runs/{run}/logs", {"limit": 0}, 422),
        ("/runs/{run}/logs", {"after": "1"}, 422),
        ("/runs/{run}/stream", {"after": -1}, 422),
        ("/runs/{run}/stream", {"after": 10**9}, 422),
        ("/runs/no-id", {}, 404),
        ("/runs/ext:", {}, 404),
        ("/runs/ext:{project}", {}, 404),
        ("/runs/{project}", {}, 404),
        ("/workflows/no-id", {}, 404),
        ("/projects/nowhere", {}, 404),
    ],
)
def test_a_wrong_parameter_is_a_problem(api: Api, project: Project, path: str, parameters: Any, status: int):
    run = project.started()
    filled = path.replace("{project}", project.id).replace("{run}", run["id"])
    refused(api.client.get(filled, params=parameters), status)


@pytest.mark.parametrize("value", ["x", "-1", "9" * 5_000, "999999"])
def test_a_wrong_last_event_id_is_a_problem(api: Api, project: Project, value: str):
    refused(api.client.get(f"/projects/{project.id}/stream", headers={"Last-Event-ID": value}), 422)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_has_bounds(api: Api, project: Project, key: str):
    problem = refused(api.client.post(f"/projects/{project.id}/runs", json={}, headers={"Idempotency-Key": key}), 422)
    assert problem["limit"] == 255
