"""Reading back: pages and their links, the past, MessagePack, the process's own figures."""

from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from tests.api import Api, Json, Project, accepted, refused

MSGPACK = {"content-type": "application/msgpack", "accept": "application/msgpack"}


def followed(client: httpx.Client, path: str, **parameters: Any) -> list[list[Json]]:
    """Return the pages of a list, by the links that they carry."""
    pages = []
    answer = client.get(path, params=parameters)
    while True:
        page = accepted(answer)
        pages.append(page["items"])
        if page["next_cursor"] is None:
            assert "link" not in answer.headers
            return pages
        link = answer.links["next"]["url"]
        assert page["next_cursor"] in httpx.URL(link).params["cursor"]
        answer = client.get(httpx.URL(str(client.base_url)).join(link))


def test_runs_are_listed_newest_first_page_by_page_while_new_ones_come(api: Api, project: Project):
    runs = [project.create()["id"] for _ in range(7)]
    first = accepted(api.client.get(f"/projects/{project.id}/runs", params={"limit": 3}))
    late = project.create()["id"]
    rest = followed(api.client, f"/projects/{project.id}/runs", limit=3, cursor=first["next_cursor"])
    seen = [run["id"] for page in [first["items"], *rest] for run in page]
    assert seen == runs[::-1]
    assert [len(page) for page in rest] == [3, 1]
    every = accepted(api.client.get(f"/projects/{project.id}/runs"))["items"]
    assert [run["id"] for run in every] == [late, *runs[::-1]]


def test_the_link_to_the_next_page_keeps_every_filter(api: Api, project: Project):
    project.finished()
    wanted = [project.create()["id"], project.started()["id"], project.create()["id"]]
    project.finished()
    pages = followed(api.client, f"/projects/{project.id}/runs", limit=1, status=["queued", "running"])
    assert [[run["id"] for run in page] for page in pages] == [[run_id] for run_id in wanted[::-1]]


def test_a_list_may_end_exactly_at_a_page(api: Api, project: Project):
    for _ in range(4):
        project.create()
    assert [len(page) for page in followed(api.client, f"/projects/{project.id}/runs", limit=2)] == [2, 2]
    assert followed(api.client, f"/projects/{api.project().id}/runs", limit=2) == [[]]


def test_projects_and_workflows_are_listed_by_name(api: Api, project: Project):
    with api.other_tenant() as tenant:
        for name in ("b", "🦊", "a&limit=1", "c d", "é"):
            accepted(tenant.post("/projects", json={"name": name}), 201)
        pages = followed(tenant, "/projects", limit=2)
    assert [project["name"] for page in pages for project in page] == ["a&limit=1", "b", "c d", "é", "🦊"]
    for name in ("w2", "w1", "w3"):
        accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": name}), 201)
    pages = followed(api.client, f"/projects/{project.id}/workflows", limit=1)
    assert [workflow["name"] for page in pages for workflow in page] == ["w1", "w2", "w3"]


def test_history_is_read_page_by_page_and_by_type(api: Api, project: Project):
    run = project.started()
    for seq in range(1, 6):
        accepted(project.log(run, seq, {"a": {"step": [seq], "value": [float(seq)]}}), 202)
        project.create()
    whole = project.events()
    positions: list[int] = []
    after: int | None = 0
    while after is not None:
        page = accepted(api.client.get(f"/projects/{project.id}/events", params={"after": after, "limit": 3}))
        positions += [event["position"] for event in page["events"]]
        after = page["next"]
    assert positions == [event["position"] for event in whole] == list(range(1, 14))
    types = {"types": "run.created, run.started"}
    some = accepted(api.client.get(f"/projects/{project.id}/events", params=types))["events"]
    assert {event["type"] for event in some} == {"run.created", "run.started"}
    own = project.events(run)
    assert [event["seq"] for event in own if event["type"] == "run.metrics_logged"] == [1, 2, 3, 4, 5]
    assert {event["subject"] for event in own} == {f"runs/{run['id']}"}


@pytest.mark.parametrize("path", ["events", "stream", "replay"])
def test_a_type_that_no_event_has_is_refused(api: Api, project: Project, path: str):
    run = project.create()
    for of in (f"/projects/{project.id}", f"/runs/{run['id']}"):
        answer = api.client.get(f"{of}/{path}", params={"types": "run.created,run.finishd"})
        problem = refused(answer, 422)
        assert problem["errors"][0]["path"] == "types"
        assert "run.finishd" in problem["detail"]


def test_events_are_cloudevents(api: Api, project: Project):
    run = project.started()
    accepted(project.log(run, 1, {"a": {"step": [1], "value": ["NaN"], "time_us": [7]}}, stage="x"), 202)
    created, started, logged = project.events(run)
    assert "dataschema" not in logged
    for event in (created, started):
        assert event["dataschema"] == f"/schema/events/{event['type']}.v1.json"
        schema = accepted(httpx.get(f"{api.url}{event['dataschema']}"))
        assert event["dataschema"] in accepted(httpx.get(f"{api.url}/schema/events"))[event["type"]]
        described = schema["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]
        assert event["data"].keys() <= described.keys()
    refused(httpx.get(f"{api.url}/schema/events/..%2Fopenapi.json"), 404)
    refused(httpx.get(f"{api.url}/schema/events/run.created.v99.json"), 404)
    for event in (created, started, logged):
        assert event["specversion"] == "1.0"
        assert event["source"] == f"/ledgers/{project.id}"
        assert event["ledger"] == project.id
        assert UUID(event["id"]).version in {5, 7}
        assert len(bytes.fromhex(event["commitment"])) == 32
        assert all(name == name.lower() and name.isalnum() for name in event)
    assert (created["version"], started["version"], started["epoch"]) == (1, 2, 1)
    assert "version" not in logged
    assert (logged["sender"], logged["seq"], logged["part"], logged["epoch"]) == ("sdk", 1, 0, 1)
    assert logged["data"] == {"series": {"a": {"step": [1], "value": ["NaN"], "time_us": [7], "stage": ["x"]}}}


def test_a_run_is_shown_as_it_was_at_a_version_and_at_a_time(api: Api, project: Project):
    run = project.started(notes="v1", config={"a": 1})
    path = f"/runs/{run['id']}"
    accepted(api.client.patch(path, json={"notes": "v3", "config": {"a": 2}}))
    ended = accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))
    shown = [accepted(api.client.get(path, params={"at": version})) for version in range(1, ended["version"] + 1)]
    assert [past["status"] for past in shown] == ["queued", "running", "running", "running", "completed"]
    assert [past["config"]["a"] for past in shown] == [1, 1, 2, 2, 2]
    assert [past["notes"] for past in shown] == ["v1", "v1", "v1", "v3", "v3"]
    assert "beyond the newest, 5" in refused(api.client.get(path, params={"at": 10**9}), 422)["detail"]
    for event in project.events(run):
        past = accepted(api.client.get(path, params={"at": event["recordedat"]}))
        assert past["version"] >= event["version"]
        assert past["position"] >= event["position"]
    for before in ("2000-01-01T00:00:00Z", "2000-01-01"):
        refused(api.client.get(path, params={"at": before}), 404)


def test_messagepack_is_understood_and_spoken_on_every_route(api: Api, project: Project):
    body = {"name": "packed", "config": {"lr": float("inf"), "n": [1, 2]}}
    path = f"/projects/{project.id}/runs"
    answer = api.client.post(path, content=msgspec.msgpack.encode(body), headers=MSGPACK)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/msgpack")
    run = msgspec.msgpack.decode(answer.content)
    assert run["config"] == {"lr": "Infinity", "n": [1, 2]}
    assert answer.headers["tachograph-position"] == str(run["position"])
    plain = accepted(api.client.get(f"/runs/{run['id']}"))
    packed = api.client.get(f"/runs/{run['id']}", headers={"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(packed.content) == plain
    problem = refused(api.client.post(path, content=b"\xc1", headers=MSGPACK), 400)
    assert "MessagePack" in problem["detail"] or "JSON" in problem["detail"]
    refused(api.client.post(path, content=msgspec.msgpack.encode({"nme": 1}), headers=MSGPACK), 422)
    refused(api.client.post(path, content=msgspec.msgpack.encode({"name": "packed"}), headers=MSGPACK), 409)


def test_curves_can_be_cut_and_thinned_without_hiding_extremes(api: Api, project: Project):
    run = project.started()
    steps = list(range(5_000))
    values: list[Any] = [float(step % 10) for step in steps]
    values[1_234], values[4_321], values[777] = 1e9, -1e9, "NaN"
    accepted(project.log(run, 1, {"a": {"step": steps, "value": values}}), 202)
    path = f"/runs/{run['id']}/chart"
    (thin,) = accepted(api.client.get(path, params={"metric": "a", "buckets": 50}))["series"]
    assert thin["sampled"]
    assert (len(thin["x"]), sum(thin["count"]), sum(thin["nan"])) == (50, 5_000, 1)
    assert (max(thin["max"]), min(thin["min"])) == (1e9, -1e9)
    (cut,) = accepted(api.client.get(path, params={"metric": "a", "from": 1_230, "to": 1_239}))["series"]
    assert cut["x"] == list(range(1_230, 1_240))
    assert cut["last"] == values[1_230:1_240]
    none, again = accepted(api.client.get(path, params={"metric": ["b", "a"]}))["series"]
    assert (none["points"], again["points"]) == (0, 5_000)


def test_log_lines_are_paged_tailed_and_searched(api: Api, project: Project):
    run = project.started()
    for seq in range(1, 5):
        accepted(project.write(run, seq, *(f"line {seq}.{index}" for index in range(5))), 202)
    path = f"/runs/{run['id']}/logs"
    texts: list[str] = []
    after = None
    while True:
        page = accepted(api.client.get(path, params={"limit": 3, **({"after": after} if after else {})}))
        texts += [line["text"] for line in page["lines"]]
        after = page["next"]
        if after is None:
            break
    assert texts == [f"line {seq}.{index}" for seq in range(1, 5) for index in range(5)]
    tail = accepted(api.client.get(path, params={"tail": 2}))["lines"]
    assert [line["text"] for line in tail] == texts[-2:]
    found = accepted(api.client.get(path, params={"search": ".3"}))["lines"]
    assert [line["text"] for line in found] == [f"line {seq}.3" for seq in range(1, 5)]


def test_the_audit_is_verified_and_its_head_moves_with_every_event(api: Api, project: Project):
    first = project.head()
    run = project.started()
    second = project.head()
    assert (first["position"], second["position"]) == (1, 3)
    assert first["chain"] != second["chain"]
    accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)
    report = project.verified()
    assert (report["verified"], report["position"], report["first_bad"]) == (True, 4, None)


def test_health_usage_and_figures_are_there(api: Api, project: Project):
    project.create(command=["true"])
    usage = accepted(api.client.get("/usage"))
    assert usage["queued_runs"] >= 1
    assert usage["limit_active_runs"] == 5
    with httpx.Client(base_url=api.url) as anybody:
        assert accepted(anybody.get("/healthz")) == {"status": "alive"}
        assert accepted(anybody.get("/readyz"))["checks"]["postgres"] == "ok"
    figures = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key})
    assert figures.headers["content-type"].startswith("text/plain")
    assert 'route="/projects"' in figures.text
    assert project.id not in figures.text
