"""Roles and confinement: what a key opens, over every route of the description, and what stays hidden from it."""

import re

import pytest

from events.ids import uuid7
from events.types import Role
from service.access import PROGRAM
from tests.api import Api, Project, accepted, refused
from tests.described import DOCUMENT
from tests.integration.credentials import holding
from tests.integration.test_http_auth import claimed


def allowed(role: str) -> set[tuple[str, str]]:
    """Return the operations that the description opens to a role."""
    return {
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if role in operation.get("x-roles", ())
    }


def test_every_route_says_what_it_needs():
    silent = {
        (method, path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if "x-roles" not in operation and operation.get("security") != []
    }
    assert silent == set()
    assert {
        role for path in DOCUMENT["paths"].values() for one in path.values() for role in one.get("x-roles", ())
    } == {
        *Role,
        PROGRAM,
    }
    assert allowed("viewer") < allowed("member") < allowed("admin")
    assert {method for method, path in allowed("viewer")} <= {"get", "head", "post"}
    assert {path for method, path in allowed("viewer") if method == "post"} == {
        "/api/v1/projects/{project}/query",
        "/api/v1/projects/{project}/audit/verify",
        "/api/v1/organisation/audit/verify",
        "/api/v1/logout",
    }


@pytest.mark.parametrize("role", Role)
def test_a_role_opens_its_routes_and_no_other(api: Api, role: str):
    nothing = str(uuid7())
    with holding(api, role) as client:
        for path, methods in DOCUMENT["paths"].items():
            asked = re.sub(r"\{(\w+)\}", lambda found: "1" if found[1] == "position" else nothing, path)
            for method, operation in methods.items():
                if operation.get("security") == [] or method == "head":
                    continue
                # what is allowed is refused for another reason: nothing of this id is there, and the body is none
                answer = client.request(method, f"{api.url}{asked}", content=b"", headers={"content-type": "x/y"})
                told = answer.json() if answer.status_code == 403 else {}
                assert (answer.status_code == 403) == (role not in operation["x-roles"]), (method, path, answer.text)
                if told:
                    assert (told["role"], told["needs"]) == (role, operation["x-roles"])


def test_a_member_runs_a_viewer_reads_and_neither_gives_keys(api: Api, project: Project):
    run = project.started()
    with holding(api, "member") as member, holding(api, "viewer") as viewer:
        own = accepted(member.post(f"/projects/{project.id}/runs", json={}), 201)
        accepted(member.post(f"/runs/{own['id']}/start", json={"pid": 1}))
        point = {"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [1.0]}}}
        accepted(member.post(f"/runs/{own['id']}/metrics", json=point), 202)
        accepted(viewer.get(f"/runs/{own['id']}"))
        refused(viewer.post(f"/runs/{own['id']}/kill", json={}), 403)
        refused(viewer.post(f"/runs/{run['id']}/metrics", json=point), 403)
        accepted(member.post(f"/runs/{own['id']}/kill", json={}))
        for client in (member, viewer):
            refused(client.post("/keys", json={"name": "more", "role": "admin"}), 403)
            refused(client.put("/organisation/plan", json={"plan": "x", "plan_limits": {}}), 403)
            refused(client.get("/keys"), 403)


def test_a_worker_claims_and_reports_and_reads_no_metrics(api: Api, project: Project):
    source = project.started()
    accepted(api.client.put(f"/runs/{source['id']}/artifacts/code.zip", content=b"data"), 201)
    run = project.create(command=["true"])
    with holding(api, "worker") as worker:
        registered = accepted(worker.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0"}]}), 201)
        body = {"worker": registered["id"], "command_id": str(uuid7()), "slots": ["cpu:0"]}
        accepted(worker.post(f"/runs/{run['id']}/claim", json=body))
        accepted(worker.post(f"/runs/{run['id']}/report", json={"report": "started", "epoch": 1}))
        assert worker.get(f"/runs/{source['id']}/artifacts/code.zip").content == b"data"
        accepted(worker.put(f"/runs/{run['id']}/artifacts/out", content=b"out"), 201)
        for path in (f"/runs/{run['id']}/metrics", f"/runs/{run['id']}/events", "/projects", "/keys", "/usage"):
            refused(worker.get(path), 403)
        refused(worker.post(f"/runs/{run['id']}/kill", json={}), 403)


def test_a_confined_key_sees_its_projects_and_nothing_of_others(api: Api, project: Project):
    other = api.project()
    hidden = other.started(external_id="x", name="hidden")
    point = {"a": {"step": [1], "value": [1.0]}}
    accepted(other.log(hidden, 1, point), 202)
    saved = accepted(api.client.put(f"/runs/{hidden['id']}/artifacts/m", content=b"secret"), 201)
    workflow = accepted(api.client.post(f"/projects/{other.id}/workflows", json={"name": "w"}), 201)
    hook = {"url": "https://example.org/hook", "types": ["run.failed"]}
    accepted(api.client.post(f"/projects/{other.id}/webhooks", json=hook), 201)
    managed = other.create(command=["true"])
    reference = f"artifact:{hidden['id']}/m"
    with holding(api, "member", projects=[project.name]) as confined:
        assert [one["id"] for one in accepted(confined.get("/me"))["projects"]] == [project.id]
        assert [one["id"] for one in accepted(confined.get("/projects"))["items"]] == [project.id]
        for name in (other.id, other.name):
            for path, methods in DOCUMENT["paths"].items():
                if not path.startswith("/api/v1/projects/{project}"):
                    continue
                filled = path.replace("{project}", name).replace("{position}", "1").replace("{reader}", "relay")
                filled = re.sub(r"\{\w+\}", str(uuid7()), filled)
                for method, operation in methods.items():
                    if method in {"get", "head"} and "member" in operation["x-roles"]:
                        answer = confined.request(
                            method, f"{api.url}{filled}", params={"metric": "a", "group": "status", "name": "hidden"}
                        )
                        assert answer.status_code in {404, 422}, (method, filled, answer.text)
                        assert hidden["id"] not in answer.text
            refused(confined.post(f"/projects/{name}/query", json={"sql": "select * from runs"}), 404)
            refused(confined.post(f"/projects/{name}/audit/verify"), 404)
            refused(confined.post(f"/projects/{name}/runs", json={}), 404)
        for where in (hidden["id"], f"ext:{other.name}:x"):
            for path in ("", "/metrics", "/logs", "/events", "/stream", "/chart?metric=a", "/export", "/artifacts/m"):
                refused(confined.get(f"/runs/{where}{path}"), 404)
            refused(confined.post(f"/runs/{where}/kill", json={}), 404)
            refused(confined.post(f"/runs/{where}/metrics", json={"epoch": 1, "seq": 2, "series": point}), 404)
            refused(confined.delete(f"/runs/{where}"), 404)
        refused(confined.get(f"/artifacts/{saved['artifact_id']}"), 404)
        refused(confined.get(f"/workflows/{workflow['id']}"), 404)
        refused(confined.post("/projects", json={"name": "of my own"}), 403)
        for path in ("/workers", "/organisation/plan", "/organisation/credits"):
            refused(confined.get(path), 403)
        refused(confined.get(f"{api.url}/metrics"), 403)
        # what a worker would fetch for it
        for body in ({"command": ["true"], "code": reference}, {"command": ["true"], "dataset": reference}):
            refused(confined.post(f"/projects/{project.id}/runs", json=body), 422)
        volumes = [{"place": reference, "path": "in"}]
        refused(confined.post(f"/projects/{project.id}/workflows", json={"name": "v", "import_volumes": volumes}), 422)
        # sums
        usage = accepted(confined.get("/usage"))
        assert {one["project_id"] for one in usage["by_workflow"]} <= {project.id}
        assert (usage["active_runs"], usage["queued_runs"], usage["quotas"]) == (0, 0, [])
        assert managed["id"] not in [one["run_id"] for one in accepted(confined.get("/queue"))["queue"]]
        refused(confined.get("/usage/credits"), 422)
        refused(confined.get("/usage/credits", params={"project": other.name}), 404)
        accepted(confined.get("/usage/credits", params={"project": project.name}))
        # and its own works
        own = accepted(confined.post(f"/projects/{project.id}/runs", json={"external_id": "mine"}), 201)
        accepted(confined.get(f"/runs/ext:{project.name}:mine"))
        accepted(confined.post(f"/projects/{project.id}/query", json={"sql": "select * from runs"}))
        accepted(confined.get(f"/runs/{own['id']}/events"))
    assert managed["id"] in [one["run_id"] for one in accepted(api.client.get("/queue"))["queue"]]


def test_a_run_token_has_the_role_of_a_program(api: Api, project: Project):
    run, claim = claimed(project)
    with api.as_caller(claim["token"]) as program:
        me = accepted(program.get("/me"))
        assert (me["role"], me["key"], me["run_id"]) == ("program", None, run["id"])
        assert refused(program.get("/projects"), 403)["role"] == "program"
