"""Who gets in, and how far: keys, run tokens, tenants."""

import base64

import httpx
import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, accepted, refused

RUN, PROJECT, OTHER = "00000000-0000-7000-8000-000000000001", "p", "00000000-0000-7000-8000-000000000002"

PUBLIC = {"/healthz", "/readyz", "/schema/events", "/schema/openapi.json"}


def routes(api: Api) -> list[tuple[str, str]]:
    """Return every method and path that the service's own description names."""
    described = accepted(httpx.get(f"{api.url}/schema/openapi.json"))
    filled = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            places = {"run": RUN, "project": PROJECT}
            for one in operation.get("parameters", []):
                number = one["schema"].get("type") == "integer"
                places.setdefault(one["name"], "1" if number else OTHER)
            filled.append((method.upper(), path.format(**places)))
    assert len(filled) > 30
    return filled


def test_every_route_but_health_and_schemas_needs_a_credential(api: Api):
    with httpx.Client(base_url=api.url) as anybody:
        for method, path in routes(api):
            answer = anybody.request(method, path, headers={"content-type": "application/json"}, content=b"{}")
            if path in PUBLIC:
                accepted(answer)
            elif path == "/api/v1/login":
                assert "api_key" in refused(answer, 422)["detail"]
            elif path.startswith("/schema/"):
                refused(answer, 404)  # there is none of that name
            elif method == "HEAD":
                assert (answer.status_code, answer.content) == (401, b"")
            else:
                problem = refused(answer, 401)
                assert "API key" in problem["detail"]
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer tg_wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Digest x"},
        {"Authorization": "Basic " + base64.b64encode(b"api:tg_wrong").decode()},
        {"Authorization": "Basic not base64"},
        {"X-API-Key": "tg_wrong"},
        {"X-API-Key": "é".encode("latin-1").decode("latin-1")},
        {"Authorization": "Bearer tgr_"},
        {"Authorization": "Bearer tgr_AAAA"},
        {"Authorization": "Bearer tgr_" + "A" * 200},
    ],
)
def test_a_wrong_credential_is_refused(api: Api, headers: dict[str, str]):
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    refused(httpx.get(f"{api.url}/api/v1/me", headers=encoded), 401)


def test_a_key_is_taken_as_bearer_as_header_and_as_basic_password(api: Api):
    basic = base64.b64encode(f"api:{api.key}".encode()).decode()
    answers = [
        httpx.get(f"{api.url}/api/v1/me", headers=headers).json()
        for headers in (
            {"Authorization": f"Bearer {api.key}"},
            {"authorization": f"bearer {api.key}"},
            {"X-API-Key": api.key},
            {"Authorization": f"Basic {basic}"},
        )
    ]
    assert answers[0]["actor"].startswith("key:")
    assert answers[1:] == answers[:1] * 3
    other_user = base64.b64encode(f"root:{api.key}".encode()).decode()
    refused(httpx.get(f"{api.url}/api/v1/me", headers={"Authorization": f"Basic {other_user}"}), 401)


def test_unknown_paths_and_methods_are_problems_too(api: Api):
    refused(api.client.get("/nowhere"), 404)
    refused(httpx.get(f"{api.url}/nowhere"), 404)
    answer = api.client.put("/projects", json={})
    refused(answer, 405)
    assert set(answer.headers["allow"].replace(" ", "").split(",")) >= {"GET", "POST"}


def test_what_belongs_to_another_tenant_is_not_there(api: Api, project: Project):
    run = project.started()
    worker = accepted(api.client.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0"}]}), 201)
    workflow = accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": "w"}), 201)
    point = {"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [1.0]}}}
    accepted(api.client.post(f"/runs/{run['id']}/metrics", json=point), 202)
    with api.other_tenant() as stranger:
        for path in (f"/projects/{project.id}", f"/projects/{project.name}", f"/workflows/{workflow['id']}"):
            refused(stranger.get(path), 404)
        for path in ("", "/metrics", "/logs", "/events", "/stream", "/chart?metric=a", "/transitions"):
            refused(stranger.get(f"/runs/{run['id']}{path}"), 404)
        refused(stranger.get(f"/runs/ext:{project.name}:x"), 404)
        refused(stranger.delete(f"/runs/{run['id']}"), 404)
        refused(stranger.patch(f"/runs/{run['id']}", json={"notes": "mine"}), 404)
        refused(stranger.post(f"/runs/{run['id']}/metrics", json={**point, "seq": 2}), 404)
        refused(stranger.post(f"/runs/{run['id']}/metrics", json={**point, "seq": 3}), 404)
        for verb in ("kill", "start"):
            refused(stranger.post(f"/runs/{run['id']}/{verb}", json={}), 404)
        refused(stranger.post(f"/projects/{project.id}/runs", json={}), 404)
        assert accepted(stranger.get("/projects"))["items"] == []
        assert accepted(stranger.get("/workers"))["items"] == []
        own = Project(stranger, accepted(stranger.post("/projects", json={"name": project.name}), 201))
        managed = own.create(command=["true"])
        claim = {"worker": worker["id"], "command_id": str(uuid7()), "slots": ["cpu:0"]}
        refused(stranger.post(f"/runs/{managed['id']}/claim", json=claim), 404)
        refused(stranger.post(f"/projects/{own.id}/runs", json={"workflow": workflow["id"]}), 422)
    assert [event["type"] for event in project.events(run)].count("run.metrics_logged") == 1


def claimed(project: Project, run: Json | None = None) -> tuple[Json, Json]:
    """Return a managed run and a worker's claim of it."""
    run = run or project.create(command=["true"])
    worker = accepted(project.api.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0"}]}), 201)
    body = {"worker": worker["id"], "command_id": str(uuid7()), "slots": ["cpu:0"]}
    return run, accepted(project.api.post(f"/runs/{run['id']}/claim", json=body))


def test_a_run_token_opens_what_its_program_needs_and_nothing_else(api: Api, project: Project):
    run, claim = claimed(project)
    other = project.started()
    with api.as_caller(claim["token"]) as program:
        me = accepted(program.get("/me"))
        assert (me["actor"], me["run_id"]) == (f"run:{run['id']}", run["id"])
        started = {"report": "started", "epoch": 1}
        refused(program.post(f"/runs/{run['id']}/report", json=started), 403)  # that is its worker's to say
        accepted(api.client.post(f"/runs/{run['id']}/report", json=started))
        accepted(program.post(f"/runs/{run['id']}/heartbeat", json={"epoch": 1}))
        point = {"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [1.0]}}}
        accepted(program.post(f"/runs/{run['id']}/metrics", json=point), 202)
        accepted(program.patch(f"/runs/{run['id']}", json={"summary": {"best": 1}}))
        accepted(program.get(f"/runs/{run['id']}"))
        forbidden = routes(api)
        for method, path in forbidden:
            if path in {*PUBLIC, "/api/v1/me", "/api/v1/login", "/api/v1/logout"}:
                continue
            for place in (project.id, project.name, PROJECT):
                asked = path.replace(f"/projects/{PROJECT}", f"/projects/{place}").replace(RUN, other["id"])
                answer = program.request(method, f"{api.url}{asked}", json={})
                assert answer.status_code in {400, 403, 404, 422}, (method, asked, answer.text)
                if answer.status_code in {400, 422}:  # the body was looked at first
                    assert "/runs/" in asked
        for verb in ("kill", "archive", "claim", "start"):
            body = {"worker": str(uuid7()), "command_id": str(uuid7()), "slots": []} if verb == "claim" else {}
            refused(program.post(f"/runs/{run['id']}/{verb}", json=body), 403)
        refused(program.delete(f"/runs/{run['id']}"), 403)
        for path in ("/events", "/stream", "/transitions"):
            refused(program.get(f"/runs/{run['id']}{path}"), 403)
    assert accepted(api.client.get(f"/runs/{run['id']}"))["status"] == "running"


def test_a_run_token_does_not_create_or_list_anything_of_the_organisation(api: Api, project: Project):
    _, claim = claimed(project)
    with api.as_caller(claim["token"]) as program:
        refused(program.get("/projects"), 403)
        refused(program.post("/projects", json={"name": "from inside"}), 403)
        refused(program.get("/workers"), 403)
        refused(program.post("/workers", json={"name": "from inside"}), 403)
        refused(program.get("/usage"), 403)
        refused(program.get(f"{api.url}/metrics"), 403)


def test_the_token_of_an_older_attempt_changes_nothing_any_more(api: Api, project: Project):
    run, first = claimed(project)
    accepted(api.client.post(f"/runs/{run['id']}/report", json={"report": "requeue", "epoch": 1}))
    _, second = claimed(project, run)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    point = {"seq": 1, "series": {"a": {"step": [1], "value": [1.0]}}}
    with api.as_caller(first["token"]) as zombie:
        for epoch in (1, 2):
            refused(zombie.post(f"/runs/{run['id']}/metrics", json={**point, "epoch": epoch}), 409)
            refused(zombie.post(f"/runs/{run['id']}/heartbeat", json={"epoch": epoch}), 409)
            refused(
                zombie.post(f"/runs/{run['id']}/finish", json={"epoch": epoch, "status": "completed"}),
                409,
            )
        refused(zombie.patch(f"/runs/{run['id']}", json={"summary": {"best": "stolen"}}), 409)
    accepted(api.client.post(f"/runs/{run['id']}/report", json={"report": "started", "epoch": 2}))
    with api.as_caller(second["token"]) as program:
        accepted(program.post(f"/runs/{run['id']}/metrics", json={**point, "epoch": 2}), 202)
    assert accepted(api.client.get(f"/runs/{run['id']}"))["summary"] == {}
