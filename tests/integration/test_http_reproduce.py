"""A run done again over HTTP: the same, with changes, linked both ways, and refused when its parts are gone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from events.ids import uuid7
from service.runs.reproduction import MAX_CHAIN
from tests.api import Api, Json, Project, accepted, refused

SAME = (
    *("mode", "workflow", "path", "tags", "config", "command", "commands", "environment", "secrets", "resources"),
    *("import_volumes", "export_volumes", "protection", "estimate_seconds", "liveness", "code", "dataset"),
    *("retries", "priority"),
)


def reproduce(project: Project, run: Json, key: str | None = None, **body: Any) -> Json:
    headers = {} if key is None else {"Idempotency-Key": key}
    return accepted(project.api.post(f"/runs/{run['id']}/reproduce", json=body, headers=headers), 201)


def managed(project: Project, **body: Any) -> Json:
    return project.create(
        **{
            "commands": [{"argv": ["prepare"]}, {"argv": ["train"], "working_directory": "src"}],
            "config": {"lr": 0.1, "model": {"depth": 3}},
            "environment": {"A": "1", "B": "2"},
            "secrets": ["S"],
            "resources": {"accelerator": "cuda", "count": 2},
            "import_volumes": [{"place": "volume:data", "path": "data"}],
            "path": "cv/digits",
            "tags": ["t"],
            "alias": "best",
            "notes": "mine",
            "dataset": "digits@7",
            "code": "git:0123abc",
            "estimate_seconds": 60,
            "liveness": {"beat_seconds": 1, "unresponsive_seconds": 3, "crashed_seconds": 9},
            "retries": 1,
            "priority": 5,
            **body,
        }
    )


def saved(project: Project, run: Json, name: str, kind: str = "file") -> None:
    path = f"/runs/{run['id']}/artifacts/{name}"
    accepted(project.api.put(path, content=name.encode(), params={"kind": kind}), 201)


def test_a_run_is_done_again_in_whatever_state_it_is_and_says_so(api: Api, project: Project):
    crowd = [project.create(), project.started(), project.finished(), managed(project)]
    for run in crowd:
        shown = accepted(api.client.get(f"/runs/{run['id']}"))
        assert "reproduce" in shown["actions"], shown["status"]
        assert reproduce(project, run)["reproduced_from"] == run["id"]
    accepted(api.client.delete(f"/runs/{crowd[2]['id']}"))
    gone = refused(api.client.post(f"/runs/{crowd[2]['id']}/reproduce", json={}), 410)
    assert "reproduce" not in gone["allowed"]


def test_a_managed_run_is_done_again_the_same(api: Api, project: Project):
    original = managed(project, external_id="mine")
    accepted(api.client.post(f"/runs/{original['id']}/kill"))
    again = reproduce(project, original)
    assert {name: again[name] for name in SAME} == {name: original[name] for name in SAME}
    assert (again["status"], again["reproduced_from"], again["changes"]) == ("queued", original["id"], [])
    assert (again["alias"], again["notes"], again["external_id"]) == (None, "", None)
    assert again["name"] != original["name"]
    second = reproduce(project, original)
    shown = accepted(api.client.get(f"/runs/{original['id']}"))
    assert shown["reproductions"] == [second["id"], again["id"]]
    assert accepted(api.client.get(f"/runs/{again['id']}"))["reproductions"] == []
    version = accepted(api.client.get(f"/runs/{original['id']}", params={"at": "1"}))
    assert version["reproductions"] == []


def test_what_differs_is_named(api: Api, project: Project):
    original = managed(project)
    again = reproduce(
        project,
        original,
        name="again",
        notes="other",
        config={"lr": 0.2, "model": {"depth": None, "width": 4}},
        environment={"A": None, "C": "3"},
        command=["one"],
        resources={"accelerator": "cuda", "count": 2},
        dataset="digits@8",
        priority=5,
    )
    assert again["name"] == "again"
    assert again["config"] == {"lr": 0.2, "model": {"width": 4}}
    assert again["environment"] == {"B": "2", "C": "3"}
    assert (again["command"], again["commands"]) == (["one"], [])
    assert {change["path"]: (change["old"], change["new"]) for change in again["changes"]} == {
        "$.config.lr": (0.1, 0.2),
        "$.config.model.depth": (3, None),
        "$.config.model.width": (None, 4),
        "$.environment.A": ("1", None),
        "$.environment.C": (None, "3"),
        "$.command": ([], ["one"]),
        "$.commands": (original["commands"], []),
        "$.dataset": ("digits@7", "digits@8"),
    }
    event = project.events(again)[0]
    assert event["data"]["changes"] == again["changes"]


def test_a_tracked_run_is_done_again_as_it_was_configured(api: Api, project: Project):
    original = project.started(config={"lr": 0.1})
    accepted(api.client.patch(f"/runs/{original['id']}", json={"config": {"seed": 7}, "summary": {"acc": 0.9}}))
    again = reproduce(project, original)
    assert (again["mode"], again["status"], again["summary"]) == ("tracked", "queued", {})
    assert again["config"] == {"lr": 0.1, "seed": 7}
    assert accepted(api.client.post(f"/runs/{again['id']}/start", json={}))["status"] == "running"
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json={"retries": 1}), 422)
    assert problem["errors"][0]["path"] == "$.retries"


def test_it_is_named_after_its_workflow_as_it_is_called_now(api: Api, project: Project):
    workflow = accepted(
        api.client.post(f"/projects/{project.id}/workflows", json={"name": "digits", "command": ["true"]}), 201
    )
    original = project.create(workflow="digits")
    changed = {"name": "numbers", "command": ["false"], "architecture": "vit"}
    accepted(api.client.patch(f"/workflows/{workflow['id']}", json=changed))
    again = reproduce(project, original)
    assert again["name"] == f"numbers-{again['session_id']}"
    assert again["workflow"] == original["workflow"], "the version that the original was made from"
    assert again["command"] == ["true"]


def test_the_same_request_is_one_reproduction(api: Api, project: Project):
    original = managed(project)
    path = f"/runs/{original['id']}/reproduce"
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda _: api.client.post(path, json={"priority": 1}, headers={"Idempotency-Key": "k"}), range(8)
            )
        )
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    refused(api.client.post(path, json={"priority": 2}, headers={"Idempotency-Key": "k"}), 409)
    other = managed(project)
    assert reproduce(project, other, key="k", priority=1)["reproduced_from"] == other["id"]
    accepted(api.client.patch(f"/runs/{original['id']}", json={"config": {"lr": 9}}))
    assert reproduce(project, original, key="k", priority=1) == answers[0].json()


def test_a_deleted_run_is_not_done_again(api: Api, project: Project):
    original = project.finished(config={"lr": 1})
    again = reproduce(project, original)
    accepted(api.client.delete(f"/runs/{original['id']}"))
    head = project.head()
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json={}), 410)
    assert problem["tombstone"]["id"] == original["id"]
    assert project.head() == head
    assert accepted(api.client.get(f"/runs/{again['id']}"))["reproduced_from"] == original["id"]
    third = reproduce(project, again)
    assert third["config"] == {"lr": 1}


def test_a_deleted_reproduction_is_no_longer_one(api: Api, project: Project):
    original = project.finished()
    again = reproduce(project, original)
    accepted(api.client.post(f"/runs/{again['id']}/kill"))
    accepted(api.client.delete(f"/runs/{again['id']}"))
    assert accepted(api.client.get(f"/runs/{original['id']}"))["reproductions"] == []


@pytest.mark.parametrize("field", ["code", "dataset", "import_volumes"])
def test_what_went_with_another_run_is_named(api: Api, project: Project, field: str):
    source = project.finished()
    saved(project, source, "snapshot.zip")
    reference = f"artifact:{source['id']}/snapshot.zip"
    given: Json = {field: [{"place": reference, "path": "x"}] if field == "import_volumes" else reference}
    original = managed(project, **given)
    reproduce(project, original)
    accepted(api.client.delete(f"/runs/{source['id']}"))
    head = project.head()
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json={}), 410)
    assert source["id"] in problem["detail"]
    assert problem["detail"].startswith(field)
    assert project.head() == head
    other: Json = {field: [] if field == "import_volumes" else "other:1"}
    assert reproduce(project, original, **other)["changes"]


def test_the_code_that_a_run_saved_goes_with_it(api: Api, project: Project):
    original = project.started()
    saved(project, original, "weights.bin", kind="model")
    saved(project, original, "code/old.zip", kind="code")
    saved(project, original, "code/new.zip", kind="code")
    again = reproduce(project, original)
    assert again["code"] == f"artifact:{original['id']}/code/new.zip"
    assert again["changes"] == []
    assert reproduce(project, again)["code"] == again["code"]
    accepted(api.client.post(f"/runs/{original['id']}/finish", json={"epoch": 1, "status": "completed"}))
    accepted(api.client.delete(f"/runs/{original['id']}"))
    problem = refused(api.client.post(f"/runs/{again['id']}/reproduce", json={}), 410)
    assert problem["detail"].startswith(f"code 'artifact:{original['id']}/code/new.zip'")
    assert reproduce(project, again, code=None)["changes"] == [{"path": "$.code", "old": again["code"], "new": None}]


def test_code_that_a_run_never_saved_is_named(api: Api, project: Project):
    source = project.finished()
    original = managed(project, code=f"artifact:{source['id']}/code.zip")
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json={}), 422)
    assert (problem["errors"][0]["path"], "code.zip" in problem["detail"]) == ("$.code", True)


def test_what_another_tenant_has_is_not_taken(api: Api, project: Project):
    original = managed(project, code=f"artifact:{uuid7()}/code.zip")
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json={}), 422)
    assert problem["errors"][0]["path"] == "$.code"
    with api.other_tenant() as other:
        refused(other.post(f"/runs/{original['id']}/reproduce", json={}), 404)


def test_no_run_reproduces_itself_and_a_chain_ends(api: Api, project: Project):
    run = project.create()
    chain = [run["id"]]
    problem = refused(api.client.post(f"/runs/{run['id']}/reproduce", json={"reproduced_from": run["id"]}), 422)
    assert "reproduced_from" in problem["detail"]
    for _ in range(MAX_CHAIN):
        run = reproduce(project, run, key="the same key", config={"n": len(chain)})
        assert run["reproduced_from"] == chain[-1]
        chain.append(run["id"])
    assert len(set(chain)) == MAX_CHAIN + 1
    problem = refused(api.client.post(f"/runs/{run['id']}/reproduce", json={}), 409)
    assert (problem["asked"], problem["state"]) == ("reproduce", "queued")
    assert str(MAX_CHAIN) in problem["detail"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"mode": "tracked"}, "$"),
        ({"command": []}, "$.command"),
        ({"resources": {"count": -4}}, "$.resources.count"),
        ({"environment": {"MY_TOKEN": "hunter2"}}, "$.environment.MY_TOKEN"),
        ({"config": []}, "$.config"),
        ({"path": ".."}, "$.path"),
        ({"commands": [{"argv": ["x"], "working_directory": "../.."}]}, "$.commands[0].working_directory"),
        ({"import_volumes": [{"place": "file:/etc/passwd", "path": "x"}]}, "$.import_volumes[0].place"),
        ({"priority": 1_001}, "$.priority"),
    ],
)
def test_a_change_that_cannot_be_is_refused(api: Api, project: Project, body: Json, path: str):
    original = managed(project)
    head = project.head()
    problem = refused(api.client.post(f"/runs/{original['id']}/reproduce", json=body), 422)
    assert problem["errors"][0]["path"] == path
    assert "hunter2" not in str(problem)
    assert project.head() == head
