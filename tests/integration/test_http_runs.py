"""A run's life over HTTP: what each state allows, what it refuses and with which words, who comes first."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, accepted, refused


def worker(project: Project, name: str = "w") -> str:
    body = {"name": name, "slots": [{"id": "cpu:0"}]}
    return str(accepted(project.api.post("/workers", json=body), 201)["id"])


def claim_body(worker_id: str) -> Json:
    return {"worker": worker_id, "command_id": str(uuid7()), "slots": ["cpu:0"]}


def test_every_command_says_where_the_ledger_stands(api: Api, project: Project):
    run = project.create(name="first")
    path = f"/runs/{run['id']}"
    answers = [
        api.client.post(f"{path}/start", json={}),
        api.client.patch(path, json={"notes": "a", "tags": ["x"], "summary": {"a": 1}}),
        api.client.post(f"{path}/progress", json={"epoch": 1, "done": 1, "total": 4, "unit": "epochs"}),
        api.client.post(f"{path}/primary-metric", json={"name": "loss", "mode": "min"}),
        api.client.post(f"{path}/finish", json={"epoch": 1, "status": "failed", "exit_code": 3}),
    ]
    for answer in answers:
        resource = accepted(answer)
        assert answer.headers["tachograph-position"] == str(resource["position"])
    positions = [answer.json()["position"] for answer in answers]
    assert positions == sorted(positions)
    assert positions[-1] == project.head()["position"] == len(project.events())
    shown = accepted(api.client.get(path))
    assert (shown["status"], shown["cause"], shown["exit_code"]) == ("failed", "exit_code", 3)
    assert shown["primary_metric"] == {"name": "loss", "mode": "min"}
    assert shown["progress"]["done"] == 1
    assert shown["actions"] == ["view logs", "delete", "archive", "reproduce"]
    assert [event["type"] for event in project.events(run)] == [
        "run.created",
        "run.started",
        "run.summary_updated",
        "run.tags_changed",
        "run.notes_set",
        "run.progress_reported",
        "run.primary_metric_set",
        "run.failed",
    ]


@pytest.mark.parametrize("status", ["completed", "failed", "killed"])
def test_an_ended_run_is_neither_killed_nor_started_nor_configured(api: Api, project: Project, status: str):
    run = project.started()
    path = f"/runs/{run['id']}"
    accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": status}))
    head = project.head()
    for answer in (
        api.client.post(f"{path}/kill", json={}),
        api.client.post(f"{path}/start", json={}),
        api.client.patch(path, json={"config": {"lr": 1}}),
        api.client.post(f"{path}/progress", json={"epoch": 1, "done": 1}),
    ):
        problem = refused(answer, 409)
        assert problem["state"] == status
        assert "delete" in problem["allowed"]
        assert "kill" not in problem["allowed"]
        assert status in problem["detail"]
    problem = refused(api.client.post(f"{path}/heartbeat", json={"epoch": 1}), 409)
    assert problem["state"] == status
    assert project.head() == head


def test_the_same_end_twice_is_one_event(api: Api, project: Project):
    run = project.started()
    path = f"/runs/{run['id']}/finish"
    first = accepted(api.client.post(path, json={"epoch": 1, "status": "completed"}))
    again = accepted(api.client.post(path, json={"epoch": 1, "status": "failed"}))
    assert again == first
    assert [event["type"] for event in project.events(run)].count("run.completed") == 1


@pytest.mark.parametrize("state", ["queued", "running", "starting"])
def test_an_active_run_is_not_deleted_and_the_refusal_says_the_way_out(api: Api, project: Project, state: str):
    run = project.started() if state == "running" else project.create(command=["true"])
    if state == "starting":
        accepted(api.client.post(f"/runs/{run['id']}/claim", json=claim_body(worker(project))))
    head = project.head()
    problem = refused(api.client.delete(f"/runs/{run['id']}"), 409)
    assert problem["state"] == state
    assert "kill" in problem["allowed"]
    assert "delete" not in problem["allowed"]
    assert "kill it" in problem["detail"]
    assert project.head() == head


def test_a_queued_run_is_killed_at_once_and_a_running_one_is_asked_to_stop(api: Api, project: Project):
    queued = project.create(command=["true"])
    killed = accepted(api.client.post(f"/runs/{queued['id']}/kill", json={"reason": "changed my mind"}))
    assert (killed["status"], killed["cause"]) == ("killed", "killed_by_user")
    run = project.started()
    path = f"/runs/{run['id']}"
    assert accepted(api.client.post(f"{path}/heartbeat", json={"epoch": 1}))["stop"] is False
    asked = accepted(api.client.post(f"{path}/kill"))
    assert (asked["status"], asked["kill_requested"]) == ("running", True)
    assert accepted(api.client.post(f"{path}/heartbeat", json={"epoch": 1})) == {
        "epoch": 1,
        "stop": True,
        "stop_cause": "killed_by_user",
    }
    assert accepted(api.client.post(f"{path}/kill", json={}))["version"] == asked["version"]
    refused(api.client.post(f"{path}/start", json={}), 409)
    ended = accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "killed"}))
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")


def test_only_one_worker_gets_a_run(api: Api, project: Project):
    run = project.create(command=["true"])
    path = f"/runs/{run['id']}/claim"
    one, other = worker(project, "one"), worker(project, "other")
    claim = claim_body(one)
    first = accepted(api.client.post(path, json=claim))
    head = project.head()
    assert accepted(api.client.post(path, json=claim)) == first
    for late in (claim_body(one), claim_body(other), {**claim, "worker": other}):
        problem = refused(api.client.post(path, json=late), 409)
        assert problem["state"] == "starting"
    refused(api.client.post(path, json={**claim, "worker": str(uuid7())}), 404)
    assert project.head() == head
    shown = accepted(api.client.get(f"/runs/{run['id']}"))
    assert (shown["worker"], shown["epoch"], shown["accelerators"]) == (one, 1, ["cpu:0"])
    accepted(api.client.post(f"/runs/{run['id']}/report", json={"report": "started", "epoch": 1}))
    assert accepted(api.client.post(path, json=claim)) == first


def test_of_many_claims_at_once_one_wins(api: Api, project: Project):
    run = project.create(command=["true"])
    claims = [claim_body(worker(project, f"w{index}")) for index in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda claim: api.client.post(f"/runs/{run['id']}/claim", json=claim), claims))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert [event["type"] for event in project.events(run)].count("run.starting") == 1


def test_a_tracked_run_is_not_claimed_and_a_managed_one_not_started(api: Api, project: Project):
    tracked, managed = project.create(), project.create(command=["true"])
    refused(api.client.post(f"/runs/{tracked['id']}/claim", json=claim_body(worker(project))), 409)
    refused(api.client.post(f"/runs/{managed['id']}/start", json={}), 409)


def test_an_older_attempt_is_told_to_stop_whatever_it_says(api: Api, project: Project):
    run = project.started()
    path = f"/runs/{run['id']}"
    assert accepted(api.client.post(f"{path}/start", json={}))["epoch"] == 2
    for epoch in (0, 1, 3):
        for verb, body in (
            ("heartbeat", {"epoch": epoch}),
            ("progress", {"epoch": epoch, "done": 1}),
            ("finish", {"epoch": epoch, "status": "completed"}),
            ("report", {"report": "ended", "epoch": epoch, "status": "failed"}),
        ):
            problem = refused(api.client.post(f"{path}/{verb}", json=body), 409)
            assert problem["state"] == "running"
            assert str(epoch) in problem["detail"]
    assert accepted(api.client.get(path))["status"] == "running"


def test_edits_that_come_at_once_are_all_kept(api: Api, project: Project):
    run = project.started()
    path = f"/runs/{run['id']}"
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda n: api.client.patch(path, json={"summary": {f"k{n}": n}, "notes": f"n{n}"}), range(16))
        )
    versions = sorted(accepted(answer)["version"] for answer in answers)
    assert versions == list(range(4, 36, 2))
    shown = accepted(api.client.get(path))
    assert shown["summary"] == {f"k{n}": n for n in range(16)}
    assert shown["version"] == 34


def test_renames_of_a_project_that_come_at_once_all_succeed_when_repeated(api: Api, project: Project):
    def rename(number: int) -> int:
        for attempt in range(50):
            answer = api.client.patch(f"/projects/{project.id}", json={"description": f"d{number}"})
            if answer.status_code == 200:
                return attempt
            refused(answer, 409)
        raise AssertionError("never succeeded")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(rename, range(8)))
    assert accepted(api.client.get(f"/projects/{project.id}"))["version"] == 9


def test_names_are_unique_where_they_have_to_be(api: Api, project: Project):
    project.create(name="taken", external_id="mine")
    other = api.project()
    other.create(name="taken", external_id="mine")
    path = f"/projects/{project.id}/runs"
    for headers in ({}, {"Idempotency-Key": "again"}):
        for body in ({"name": "taken"}, {"external_id": "mine"}):
            refused(api.client.post(path, json=body, headers={**headers}), 409)
        refused(api.client.post("/projects", json={"name": project.name}, headers=headers), 409)
    refused(api.client.patch(f"/projects/{other.id}", json={"name": project.name}), 409)
    workflows = f"/projects/{project.id}/workflows"
    accepted(api.client.post(workflows, json={"name": "w"}), 201)
    second = accepted(api.client.post(workflows, json={"name": "v"}), 201)
    for headers in ({}, {"Idempotency-Key": "again"}):
        refused(api.client.post(workflows, json={"name": "w"}, headers=headers), 409)
    refused(api.client.patch(f"/workflows/{second['id']}", json={"name": "w"}), 409)
    assert len(accepted(api.client.get(path))["items"]) == 1
    assert project.verified()["verified"]


def test_of_many_runs_with_one_name_one_is_created(api: Api, project: Project):
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: api.client.post(f"/projects/{project.id}/runs", json={"name": "one"}), range(8))
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    assert project.head()["position"] == 2


def test_a_run_is_found_by_the_id_that_its_client_gave_it(api: Api, project: Project):
    run = project.create(external_id="trial:7 №1")
    for name in (project.name, project.id):
        assert accepted(api.client.get(f"/runs/ext:{name}:trial:7%20№1"))["id"] == run["id"]
    refused(api.client.get(f"/runs/ext:{project.name}:trial"), 404)


def test_description_can_be_edited_until_the_run_is_deleted(api: Api, project: Project):
    run = project.started(config={"lr": 0.1, "model": {"depth": 3, "width": 4}}, tags=["a"], alias="x")
    path = f"/runs/{run['id']}"
    patch = {"config": {"lr": None, "model": {"depth": 5}}, "tags": ["b", "b", "c"], "alias": None, "notes": "n"}
    edited = accepted(api.client.patch(path, json=patch))
    assert edited["config"] == {"model": {"depth": 5, "width": 4}}
    assert (edited["tags"], edited["alias"], edited["notes"]) == (["b", "c"], None, "n")
    accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))
    after = accepted(api.client.patch(path, json={"summary": {"best": {"acc": 0.9}}, "tags": [], "alias": "y"}))
    assert (after["summary"], after["tags"], after["alias"]) == ({"best": {"acc": 0.9}}, [], "y")
    version = after["version"]
    same = accepted(api.client.patch(path, json={"tags": [], "alias": "y", "notes": "n"}))
    assert same["version"] == version, "an edit that changes nothing is no event"


def test_a_workflow_gives_its_recipe_to_its_runs_and_a_rename_changes_later_ones_only(api: Api, project: Project):
    body = {"name": "digits", "command": ["python", "train.py"], "training_parameters": {"lr": 0.1, "n": 3}}
    workflow = accepted(api.client.post(f"/projects/{project.id}/workflows", json=body), 201)
    first = project.create(workflow="digits", config={"lr": 0.2})
    assert first["name"] == f"digits-{first['session_id']}"
    assert (first["mode"], first["command"], first["config"]) == ("managed", body["command"], {"lr": 0.2, "n": 3})
    accepted(api.client.patch(f"/workflows/{workflow['id']}", json={"name": "numbers"}))
    second = project.create(workflow=workflow["id"])
    assert second["name"] == f"numbers-{second['session_id']}"
    assert accepted(api.client.get(f"/runs/{first['id']}"))["name"] == first["name"]
    found = accepted(api.client.get(f"/projects/{project.id}/runs", params={"workflow": "numbers"}))["items"]
    assert {run["id"] for run in found} == {first["id"], second["id"]}


def test_transitions_say_who_when_and_why(api: Api, project: Project):
    run = project.started()
    accepted(api.client.post(f"/runs/{run['id']}/kill", json={"reason": "too slow"}))
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "killed"}))
    history = accepted(api.client.get(f"/runs/{run['id']}/transitions"))["transitions"]
    assert [(step["from_status"], step["to_status"], step["cause"]) for step in history] == [
        ("absent", "queued", None),
        ("queued", "running", None),
        ("running", "killed", "killed_by_user"),
    ]
    me = accepted(api.client.get("/me"))["actor"]
    assert {step["actor"] for step in history} == {me}
    times = [datetime.fromisoformat(step["at"]) for step in history]
    assert times == sorted(times)
    assert accepted(api.client.get(f"/runs/{run['id']}"))["reason"] == "too slow"
