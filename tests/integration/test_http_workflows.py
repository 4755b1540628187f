"""Workflows over HTTP: versions, renames, the archive, and what runs take from them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api import Api, Json, Project, accepted, refused

RECIPE: Json = {
    "architecture": "resnet-50",
    "dataset": "digits@7",
    "dataset_split": {"train": 0.8, "validation": 0.2},
    "training_parameters": {"lr": 0.1, "n": 3},
    "system_prompt": "count",
    "commands": [{"argv": ["python", "prepare.py"]}, {"argv": ["python", "train.py"], "working_directory": "src"}],
    "environment": {"EPOCHS": "3"},
    "secrets": ["HF_TOKEN"],
    "resources": {"accelerator": "cuda", "count": 2},
    "import_volumes": [{"place": "volume:data/digits", "path": "data"}],
    "export_volumes": [{"place": "artifact:model", "path": "out"}],
    "protection": True,
    "estimate_seconds": 3600.0,
    "code": "artifact:01890000-0000-7000-8000-000000000001/code.zip",
    "retries": 2,
}


def workflow(project: Project, **body: Any) -> Json:
    return accepted(project.api.post(f"/projects/{project.id}/workflows", json={"name": "digits", **body}), 201)


def shown(recipe: Json) -> Json:
    prepare, train = recipe["commands"]
    return {**recipe, "commands": [{**prepare, "working_directory": ""}, train], "command": []}


def test_each_change_is_a_version_that_stays(api: Api, project: Project):
    first = workflow(project, **RECIPE)
    path = f"/workflows/{first['id']}"
    assert first["version"] == 1
    assert {name: first[name] for name in (*RECIPE, "command")} == shown(RECIPE)
    renamed = accepted(api.client.patch(path, json={"name": "numbers"}))
    assert (renamed["version"], renamed["name"]) == (2, "numbers")
    changed = accepted(api.client.patch(path, json={"training_parameters": {"lr": 1}, "command": ["x"]}))
    assert (changed["version"], changed["training_parameters"]) == (3, {"lr": 1})
    assert (changed["command"], changed["commands"], changed["environment"]) == (["x"], [], {"EPOCHS": "3"})
    both = accepted(api.client.patch(path, json={"name": "digits", "retries": 0, "resources": None}))
    assert (both["version"], both["name"], both["retries"], both["resources"]) == (5, "digits", 0, None)
    head = project.head()
    same = api.client.patch(path, json={"name": "digits", "retries": 0})
    assert accepted(same) == both
    assert same.headers["tachograph-position"] == str(head["position"])
    assert project.head() == head
    for version, expected in ((1, first), (2, renamed), (3, changed), (5, both)):
        assert accepted(api.client.get(path, params={"version": version})) == expected
    assert accepted(api.client.get(path)) == both
    for version in (0, -1, 6):
        refused(api.client.get(path, params={"version": version}), 404)
    assert [event["type"] for event in project.events()][1:] == [
        "workflow.created",
        "workflow.renamed",
        "workflow.changed",
        "workflow.renamed",
        "workflow.changed",
    ]


def test_a_run_pins_the_version_that_it_was_made_from(api: Api, project: Project):
    recipe = workflow(project, **RECIPE)
    run = project.create(workflow="digits", config={"lr": 0.5})
    accepted(api.client.patch(f"/workflows/{recipe['id']}", json={"name": "numbers", "architecture": "vit"}))
    again = accepted(api.client.get(f"/runs/{run['id']}"))
    assert again["name"] == run["name"] == f"digits-{run['session_id']}"
    assert again["workflow"] == {
        "id": recipe["id"],
        "name": "digits",
        "version": 1,
        "architecture": "resnet-50",
        "dataset": "digits@7",
        "dataset_split": RECIPE["dataset_split"],
        "training_parameters": RECIPE["training_parameters"],
        "system_prompt": "count",
    }
    assert (again["config"], again["dataset"]) == ({"lr": 0.5, "n": 3}, "digits@7")
    expected = shown(RECIPE)
    for name in ("commands", "environment", "secrets", "resources", "import_volumes", "export_volumes", "retries"):
        assert again[name] == expected[name], name
    later = project.create(workflow=recipe["id"])
    assert later["name"] == f"numbers-{later['session_id']}"
    assert (later["workflow"]["version"], later["workflow"]["architecture"]) == (3, "vit")


def test_an_archived_workflow_makes_no_runs_and_keeps_those_it_made(api: Api, project: Project):
    recipe = workflow(project, command=["true"])
    run = project.create(workflow="digits")
    path = f"/workflows/{recipe['id']}/archive"
    assert accepted(api.client.post(path))["archived"] is True
    assert accepted(api.client.post(path, json={"archived": True}))["version"] == 2
    problem = refused(api.client.post(f"/projects/{project.id}/runs", json={"workflow": "digits"}), 422)
    assert problem["errors"][0]["path"] == "$.workflow"
    listed = f"/projects/{project.id}/workflows"
    assert accepted(api.client.get(listed))["items"] == []
    for archived, count in (("true", 1), ("any", 1), ("false", 0)):
        assert len(accepted(api.client.get(listed, params={"archived": archived}))["items"]) == count
    refused(api.client.get(listed, params={"archived": "maybe"}), 422)
    found = accepted(api.client.get(f"/projects/{project.id}/runs", params={"workflow": "digits"}))["items"]
    assert [one["id"] for one in found] == [run["id"]]
    back = accepted(api.client.post(path, json={"archived": False}))
    assert (back["archived"], back["version"]) == (False, 3)
    project.create(workflow="digits")


def test_changes_that_come_at_once_are_all_kept(api: Api, project: Project):
    recipe = workflow(project)
    path = f"/workflows/{recipe['id']}"
    fields = [{"architecture": "a"}, {"dataset": "d"}, {"system_prompt": "s"}, {"retries": 3}, {"protection": True}]
    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(lambda body: api.client.patch(path, json=body), fields))
    assert sorted(accepted(answer)["version"] for answer in answers) == [2, 3, 4, 5, 6]
    kept = accepted(api.client.get(path))
    assert all(kept[name] == value for body in fields for name, value in body.items())


def test_a_change_that_comes_twice_is_answered_as_the_first_time(api: Api, project: Project):
    recipe = workflow(project)
    path = f"/workflows/{recipe['id']}"
    headers = {"Idempotency-Key": "once"}
    first = accepted(api.client.patch(path, json={"retries": 1}, headers=headers))
    accepted(api.client.patch(path, json={"retries": 2}))
    assert accepted(api.client.patch(path, json={"retries": 1}, headers=headers)) == first
    refused(api.client.patch(path, json={"retries": 3}, headers=headers), 409)
    archived = accepted(api.client.post(f"{path}/archive", headers=headers))
    accepted(api.client.post(f"{path}/archive", json={"archived": False}))
    assert accepted(api.client.post(f"{path}/archive", headers=headers)) == archived


def test_another_tenant_sees_nothing_of_it(api: Api, project: Project):
    path = f"/workflows/{workflow(project)['id']}"
    with api.other_tenant() as other:
        refused(other.get(path), 404)
        refused(other.patch(path, json={"retries": 1}), 404)
        refused(other.post(f"{path}/archive"), 404)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"environment": {"MY_PASSWORD": "hunter2"}}, "$.environment.MY_PASSWORD"),
        ({"resources": {"count": -1}}, "$.resources.count"),
        ({"dataset_split": {"train": 0.9, "test": 0.2}}, "$.dataset_split"),
        ({"dataset_split": {"train": -0.1}}, "$.dataset_split.train"),
        ({"commands": [{"argv": []}]}, "$.commands[0].argv"),
        ({"import_volumes": [{"place": "/etc", "path": "x"}]}, "$.import_volumes[0].place"),
        ({"estimate_seconds": 1e12}, "$.estimate_seconds"),
        ({"retries": 101}, "$.retries"),
        ({"colour": "red"}, "$"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_whole(api: Api, project: Project, body: Json, path: str):
    known = workflow(project)
    head = project.head()
    for answer in (
        api.client.post(f"/projects/{project.id}/workflows", json={"name": "other", **body}),
        api.client.patch(f"/workflows/{known['id']}", json=body),
    ):
        problem = refused(answer, 422)
        assert problem["errors"][0]["path"] == path
        assert "hunter2" not in str(problem)
    assert project.head() == head
