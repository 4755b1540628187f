"""Sweeps over HTTP: what is taken, shown and refused."""

import httpx
import pytest

from tests.api import Api, Json, Project, accepted, refused

SEARCH: Json = {
    "workflow": "digits",
    "method": "random",
    "parameters": {"lr": {"min": 0.001, "max": 1, "distribution": "log_uniform"}, "kind": {"values": ["a", "b"]}},
    "metric": {"name": "loss", "goal": "min"},
    "max_runs": 3,
}


def workflow(project: Project, **body: object) -> Json:
    recipe = {"name": "digits", "command": ["train", "${args}"], "training_parameters": {"epochs": 2}, **body}
    return accepted(project.api.post(f"/projects/{project.id}/workflows", json=recipe), 201)


def ask(project: Project, headers: Json | None = None, **body: object) -> httpx.Response:
    return project.api.post(f"/projects/{project.id}/sweeps", json={**SEARCH, **body}, headers=headers or {})


def test_a_sweep_is_shown_as_it_was_asked_for_and_does_what_it_is_told(api: Api):
    project = api.project()
    recipe = workflow(project)
    sweep = accepted(ask(project, name="first", seed=7, concurrency=2), 201)
    assert {name: sweep[name] for name in ("name", "method", "metric", "max_runs", "concurrency", "seed")} == {
        "name": "first",
        "method": "random",
        "metric": {"name": "loss", "goal": "min"},
        "max_runs": 3,
        "concurrency": 2,
        "seed": 7,
    }
    assert sweep["parameters"] == {
        "lr": {"distribution": "log_uniform", "min": 0.001, "max": 1.0},
        "kind": {"distribution": "categorical", "values": ["a", "b"]},
    }
    assert (sweep["workflow"], sweep["workflow_version"]) == (recipe["id"], 1)
    assert (sweep["status"], sweep["trials"], sweep["best"]) == ("running", {"made": 0, "by_status": {}}, None)
    path = f"/sweeps/{sweep['id']}"
    assert accepted(api.client.get(path)) == sweep
    for action, status, allowed in (
        ("pause", "paused", ["resume", "stop", "cancel"]),
        ("pause", "paused", ["resume", "stop", "cancel"]),
        ("resume", "running", ["pause", "stop", "cancel"]),
        ("stop", "stopped", ["cancel"]),
        ("cancel", "cancelled", []),
    ):
        answer = accepted(api.client.post(f"{path}/{action}"))
        assert (answer["status"], answer["actions"]) == (status, allowed)
    problem = refused(api.client.post(f"{path}/resume"), 409)
    assert (problem["state"], problem["asked"], problem["allowed"]) == ("cancelled", "resume", [])
    assert [event["type"] for event in project.events()][2:] == [
        f"sweep.{name}" for name in ("created", "paused", "resumed", "stopped", "cancelled")
    ]
    assert project.verified()["verified"] is True


def test_the_same_request_makes_one_sweep_and_is_answered_the_same(api: Api):
    project = api.project()
    recipe = workflow(project)
    headers = {"Idempotency-Key": "once"}
    first = accepted(ask(project, headers), 201)
    accepted(api.client.post(f"/workflows/{recipe['id']}/archive"))
    assert accepted(ask(project, headers), 201) == first
    refused(ask(project, headers, max_runs=4), 409)
    path = f"/sweeps/{first['id']}"
    paused = accepted(api.client.post(f"{path}/pause", headers=headers))
    accepted(api.client.post(f"{path}/resume"))
    assert accepted(api.client.post(f"{path}/pause", headers=headers)) == paused
    assert accepted(api.client.get(path))["status"] == "running"
    assert [one["id"] for one in accepted(api.client.get(f"/projects/{project.id}/sweeps"))["items"]] == [first["id"]]


def test_sweeps_are_listed_newest_first_by_pages(api: Api):
    project = api.project()
    workflow(project)
    made = [accepted(ask(project, name=str(number)), 201)["id"] for number in range(5)]
    listed, cursor = [], ""
    while cursor is not None:
        page = accepted(api.client.get(f"/projects/{project.id}/sweeps", params={"limit": 2, "cursor": cursor}))
        listed += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert listed == made[::-1]
    refused(api.client.get(f"/projects/{project.id}/sweeps", params={"cursor": "x"}), 422)
    refused(api.client.get(f"/sweeps/{made[0]}/trials", params={"cursor": "-1"}), 422)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"workflow": "nobody's"}, "$.workflow"),
        ({"workflow": "without a command"}, "$.workflow"),
        ({"method": "guess"}, "$.method"),
        ({"max_runs": 0}, "$.max_runs"),
        ({"max_runs": 10_001}, "$.max_runs"),
        ({"max_runs": None}, "$.max_runs"),
        ({"concurrency": 0}, "$.concurrency"),
        ({"parameters": {}}, "$.parameters"),
        ({"parameters": {"a": {"values": []}}}, "$.parameters.a.values"),
        ({"parameters": {"a": {"min": 1, "max": 0}}}, "$.parameters.a.min"),
        ({"parameters": {"a": {"value": 1}, "b": {"min": 1, "max": "2"}}}, "$.parameters.b.max"),
        ({"parameters": {"a": {"value": 1}, "b.c": {"values": 2}}}, "$.parameters['b.c'].values"),
        ({"parameters": {"a": {"value": 1}, "b c": {"value": 2}}}, "$.parameters['b c']"),
        ({"method": "grid"}, "$.parameters.lr"),
        ({"method": "bayes", "metric": None}, "$.metric"),
        ({"metric": {"name": "loss", "goal": "more"}}, "$.metric.goal"),
        ({"seed": -1}, "$.seed"),
        ({"colour": "red"}, "$"),
    ],
)
def test_a_search_that_cannot_be_leaves_nothing(api: Api, body: Json, path: str):
    project = api.project()
    workflow(project)
    workflow(project, name="without a command", command=[])
    head = project.head()
    assert refused(ask(project, **body), 422)["errors"][0]["path"] == path
    assert project.head() == head


def test_another_tenant_sees_nothing_of_it(api: Api):
    project = api.project()
    workflow(project)
    path = f"/sweeps/{accepted(ask(project), 201)['id']}"
    with api.other_tenant() as other:
        for answer in (other.get(path), other.get(f"{path}/trials"), other.post(f"{path}/cancel")):
            refused(answer, 404)
