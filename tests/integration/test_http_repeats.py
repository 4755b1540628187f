"""The same request twice: one event, and the first answer again, whatever has happened since."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from events.ids import uuid7
from tests.api import Api, Project, accepted, refused

ROLES = ("projector",)


class Requests:
    """Sends requests with keys, and can send all of them again."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._sent: list[tuple[httpx.Request, httpx.Response]] = []

    def send(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Idempotency-Key": f"{uuid7()}"}
        request = self._client.build_request(method, path, json=body, headers=headers)
        answer = self._client.send(request)
        assert answer.is_success, answer.text
        self._sent.append((request, answer))
        return answer.json()

    def repeat(self) -> None:
        for request, answer in self._sent:
            again = self._client.send(request)
            what = f"{request.method} {request.url.path}"
            assert (again.status_code, again.content) == (answer.status_code, answer.content), what
            assert again.headers.get("tachograph-position") == answer.headers.get("tachograph-position"), what


def test_every_answer_of_a_runs_life_is_given_again_byte_for_byte(api: Api, project: Project):
    requests = Requests(api.client)
    workflow = {"name": "w", "command": ["true"], "estimate_seconds": 60}
    requests.send("POST", f"/projects/{project.id}/workflows", workflow)
    requests.repeat()
    run = requests.send("POST", f"/projects/{project.id}/runs", {"workflow": "w", "config": {"a": 1}})
    path = f"/runs/{run['id']}"
    worker = accepted(api.client.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0"}]}), 201)
    claim = {"worker": worker["id"], "command_id": str(uuid7()), "slots": ["cpu:0"]}
    requests.send("POST", f"{path}/claim", claim)
    requests.send("POST", f"{path}/report", {"report": "preparing", "epoch": 1, "stage": "image"})
    requests.send("POST", f"{path}/report", {"report": "requeue", "epoch": 1})
    requests.send("POST", f"{path}/claim", {**claim, "command_id": str(uuid7())})
    requests.repeat()
    requests.send("POST", f"{path}/report", {"report": "started", "epoch": 2, "pid": 7})
    requests.send("POST", f"{path}/progress", {"epoch": 2, "done": 1, "total": 3})
    requests.send("PATCH", path, {"summary": {"a": 1}, "tags": ["x"], "config": {"b": 2}})
    requests.send("POST", f"{path}/primary-metric", {"name": "loss", "mode": "min"})
    requests.repeat()
    requests.send("POST", f"{path}/kill", {"grace_seconds": 1, "reason": "enough"})
    requests.repeat()
    requests.send("POST", f"{path}/report", {"report": "ended", "epoch": 2, "status": "killed", "exit_code": -15})
    requests.send("POST", f"{path}/archive", {"archived": True})
    requests.send("PATCH", path, {"notes": "after the end"})
    accepted(api.client.patch(f"/workflows/{run['workflow']['id']}", json={"name": "renamed"}))
    head = project.head()
    requests.repeat()
    assert project.head() == head
    shown = accepted(api.client.get(path))
    assert (shown["status"], shown["notes"]) == ("killed", "after the end")
    assert project.verified()["verified"]


def test_a_projects_creation_is_given_again_after_its_rename(api: Api):
    requests = Requests(api.client)
    made = requests.send("POST", "/projects", {"name": f"p-{uuid7()}", "description": "first"})
    accepted(api.client.patch(f"/projects/{made['id']}", json={"name": f"p-{uuid7()}"}))
    requests.repeat()


def test_a_tracked_runs_start_and_end_are_given_again(api: Api, project: Project):
    requests = Requests(api.client)
    run = requests.send("POST", f"/projects/{project.id}/runs", {"external_id": "x"})
    first = requests.send("POST", f"/runs/{run['id']}/start", {"pid": 1})
    second = requests.send("POST", f"/runs/{run['id']}/start", {"pid": 2})
    assert (first["epoch"], second["epoch"]) == (1, 2)
    requests.repeat()
    requests.send("POST", f"/runs/{run['id']}/finish", {"epoch": 2, "status": "failed", "exit_code": 1})
    requests.repeat()
    assert accepted(api.client.get(f"/runs/{run['id']}"))["epoch"] == 2


def test_a_key_with_another_body_is_a_conflict(api: Api, project: Project):
    run = project.started()
    for method, path, one, other in (
        ("POST", "/projects", {"name": f"p-{uuid7()}"}, {"name": f"p-{uuid7()}"}),
        ("POST", f"/projects/{project.id}/runs", {"name": "a"}, {"name": "b"}),
        ("POST", f"/projects/{project.id}/workflows", {"name": "a"}, {"name": "b"}),
        ("PATCH", f"/runs/{run['id']}", {"notes": "a"}, {"notes": "b"}),
        ("POST", f"/runs/{run['id']}/kill", {"reason": "a"}, {"reason": "b"}),
        ("POST", f"/runs/{run['id']}/finish", {"epoch": 1, "status": "killed"}, {"epoch": 1, "status": "failed"}),
    ):
        headers = {"Idempotency-Key": "one key"}
        first = api.client.request(method, path, json=one, headers=headers)
        assert first.is_success, first.text
        problem = refused(api.client.request(method, path, json=other, headers=headers), 409)
        assert problem["type"].endswith("id-reused")
        assert api.client.request(method, path, json=one, headers=headers).content == first.content


def test_a_key_counts_for_its_caller_method_and_path_alone(api: Api, project: Project):
    headers = {"Idempotency-Key": "shared"}
    other = api.project()
    first = accepted(api.client.post(f"/projects/{project.id}/runs", json={}, headers=headers), 201)
    second = accepted(api.client.post(f"/projects/{other.id}/runs", json={}, headers=headers), 201)
    assert first["id"] != second["id"]
    with api.other_tenant() as stranger:
        own = Project(stranger, accepted(stranger.post("/projects", json={"name": "p"}, headers=headers), 201))
        third = accepted(stranger.post(f"/projects/{own.id}/runs", json={}, headers=headers), 201)
    assert third["id"] not in {first["id"], second["id"]}


def test_the_same_request_many_times_at_once_is_one_event(api: Api, project: Project):
    def create(_: int) -> httpx.Response:
        headers = {"Idempotency-Key": "at once"}
        return api.client.post(f"/projects/{project.id}/runs", json={"name": "n"}, headers=headers)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create, range(16)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert project.head()["position"] == 2


def test_what_was_said_about_a_deleted_run_is_not_told_again(api: Api, project: Project):
    run = project.finished()
    headers = {"Idempotency-Key": "noted"}
    accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": "private"}, headers=headers))
    accepted(api.client.delete(f"/runs/{run['id']}"))
    problem = refused(api.client.patch(f"/runs/{run['id']}", json={"notes": "private"}, headers=headers), 410)
    assert "private" not in str(problem)
