"""Time travel: runs, projects and lists of runs as of a version, a position or a time."""

import json
import socket
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.api import SECONDS, Api, Json, Project, accepted, refused, until

ROLES = ("projector",)

PER_HOUR = 10_000_000  # micro-credits of an accelerator


def at(event: Json) -> datetime:
    return datetime.fromisoformat(event["recordedat"])


def test_a_run_is_shown_with_what_it_had_cost_and_how_far_it_was(api: Api, project: Project):
    run = project.started(resources={"accelerator": "a", "count": 1_000}, estimate_seconds=3600)
    path = f"/runs/{run['id']}"
    accepted(api.client.post(f"{path}/progress", json={"epoch": 1, "done": 1, "total": 4}))
    accepted(api.client.patch(path, json={"summary": {"acc": 0.5}}))
    accepted(api.client.post(f"{path}/progress", json={"epoch": 1, "done": 3, "total": 4}))
    ended = accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))
    events = {event["version"]: event for event in project.events(run)}
    started = at(events[2])
    for version, event in events.items():
        if version > ended["version"]:
            break
        past = accepted(api.client.get(path, params={"at": version}))
        spent = max(timedelta(), at(event) - started)
        assert past["training_seconds"] == spent.total_seconds()
        micro = (PER_HOUR * 1_000 * (spent // timedelta(microseconds=1)) + 1_800_000_000) // 3_600_000_000
        assert past["credits"]["consumed_micro"] == micro
        assert (past["credits"]["saved_micro"] is None) == (past["status"] != "completed")
        for named in (f"version:{version}", f"position:{event['position']}", event["recordedat"]):
            then = accepted(api.client.get(path, params={"at": named}))
            assert then["version"] >= version  # events that were recorded together share their time
            if named.startswith(("version", "position")):
                assert then == past
    third, fourth, fifth = (accepted(api.client.get(path, params={"at": version})) for version in (3, 4, 5))
    assert [one["progress"]["done"] for one in (third, fourth, fifth)] == [1, 1, 3]
    assert [one["progress"]["percent"] for one in (third, fourth, fifth)] == [25, 25, 75]
    reported = [datetime.fromisoformat(one["progress"]["reported_at"]) for one in (third, fourth, fifth)]
    assert reported == [at(events[3]), at(events[3]), at(events[5])]
    assert fifth["progress"] == accepted(api.client.get(path, params={"at": "5"}))["progress"]  # not of today
    assert [one["summary"] for one in (third, fourth)] == [{}, {"acc": 0.5}]


def test_between_two_events_time_goes_on(api: Api, project: Project):
    run = project.started(resources={"accelerator": "a", "count": 1_000})
    path = f"/runs/{run['id']}"
    ended = accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))
    started, finished = (datetime.fromisoformat(ended[name]) for name in ("started_at", "ended_at"))
    middle = started + (finished - started) / 2
    then = accepted(api.client.get(path, params={"at": middle.isoformat()}))
    assert then["status"] == "running"
    assert then["training_seconds"] == pytest.approx((middle - started).total_seconds())
    assert 0 < then["credits"]["consumed_micro"] < ended["credits"]["consumed_micro"]


def test_what_was_never_so_is_refused(api: Api, project: Project):
    before = project.head()["position"]
    run = project.started()
    head = project.head()["position"]
    for path, missing in ((f"/runs/{run['id']}", f"position:{before}"), (f"/projects/{project.id}", "2001-02-03")):
        assert "did not exist yet" in refused(api.client.get(path, params={"at": missing}), 404)["detail"]
        for named, limit in ((f"position:{head + 1}", head), ("3", None), ("2999-01-01T00:00:00Z", None)):
            problem = refused(api.client.get(path, params={"at": named}), 422)
            assert problem["errors"][0]["path"] == "at"
            assert limit is None or problem["limit"] == limit
        for malformed in ("position:0", "position:x", "soon", "9" * 40):
            refused(api.client.get(path, params={"at": malformed}), 422)
    runs = f"/projects/{project.id}/runs"
    assert "position or a time" in refused(api.client.get(runs, params={"at": "1"}), 422)["detail"]
    refused(api.client.get(runs, params={"at": f"position:{head + 1}"}), 422)
    refused(api.client.get(runs, params={"at": f"position:{head}", "cursor": "x"}), 422)
    refused(api.client.get(runs, params={"at": f"position:{head}", "mystery": "x"}), 422)
    assert accepted(api.client.get(runs, params={"at": "2001-02-03"}))["items"] == []


def test_a_project_is_shown_as_it_was(api: Api, project: Project):
    path = f"/projects/{project.id}"
    accepted(api.client.patch(path, json={"description": "second"}))
    accepted(api.client.patch(path, json={"name": f"{project.name}-renamed"}))
    shown = [accepted(api.client.get(path, params={"at": version})) for version in (1, 2, 3)]
    assert [one["version"] for one in shown] == [1, 2, 3]
    assert [one["description"] for one in shown] == ["", "second", "second"]
    assert [one["name"] == project.name for one in shown] == [True, True, False]
    assert shown[2] == accepted(api.client.get(path))
    for event, past in zip(project.events(), shown, strict=True):
        answer = api.client.get(path, params={"at": f"position:{event['position']}"})
        assert accepted(answer) == past
        assert answer.headers["tachograph-position"] == str(event["position"])


def listed_then(api: Api, project: Project, **parameters: Any) -> tuple[list[Json], list[Json]]:
    """Return all pages of a list of the past: the runs, and those deleted since."""
    items: list[Json] = []
    deleted: list[Json] = []
    answer = api.client.get(f"/projects/{project.id}/runs", params=parameters)
    while True:
        page = accepted(answer)
        items += page["items"]
        deleted += page["deleted"]
        if page["next_cursor"] is None:
            return items, deleted
        answer = api.client.get(f"{api.url}{answer.links['next']['url']}")


def test_the_list_of_runs_is_what_it_was_at_every_position(api: Api, project: Project):
    """At each position of the project's life the list is what it was found to be then."""
    workflow = accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": "w"}), 201)
    seen: dict[int, dict[str, tuple[str, int, str]]] = {}

    def look() -> None:
        items = accepted(api.client.get(f"/projects/{project.id}/runs"))["items"]
        seen[project.head()["position"]] = {run["id"]: (run["status"], run["version"], run["notes"]) for run in items}

    look()
    runs: list[Json] = []
    for step in range(5):
        run = project.create(workflow=workflow["id"]) if step % 2 else project.create(notes="plain")
        runs.append(run)
        look()
        accepted(api.client.post(f"/runs/{run['id']}/start", json={"pid": 1}))
        look()
        accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": f"step {step}"}))
        look()
    for run in runs[:3]:
        accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
        look()
    for position, then in seen.items():
        items, deleted = listed_then(api, project, at=f"position:{position}", limit=2)
        assert {run["id"]: (run["status"], run["version"], run["notes"]) for run in items} == then
        assert deleted == []
    before = max(seen)
    gone = runs[1]["id"]
    accepted(api.client.request("DELETE", f"/runs/{gone}", json={"reason": "asked to"}))
    for position, then in seen.items():
        items, deleted = listed_then(api, project, at=f"position:{position}", limit=2)
        assert {run["id"] for run in items} == set(then) - {gone}
        assert [(one["tombstone"]["id"], one["status"]) for one in deleted] == [
            (run_id, status) for run_id, (status, _, _) in then.items() if run_id == gone
        ]
    refused(api.client.get(f"/runs/{gone}", params={"at": f"position:{before}"}), 410)
    now = project.head()["position"]
    items, deleted = listed_then(api, project, at=f"position:{now}")
    assert gone not in {run["id"] for run in items}
    assert deleted == []
    items, deleted = listed_then(api, project, at=f"position:{before}", status=["completed"])
    assert {run["id"] for run in items} == {run["id"] for run in runs[:3]} - {gone}
    assert [one["tombstone"]["reason"] for one in deleted] == ["asked to"]
    items, _ = listed_then(api, project, at=f"position:{before}", workflow="w")
    assert {run["id"] for run in items} == {runs[3]["id"]}


def test_a_list_of_the_past_shows_what_runs_had_cost(api: Api, project: Project):
    run = project.started(resources={"accelerator": "a", "count": 1_000})
    position = project.head()["position"]
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    last = project.head()["position"]
    for named in (f"position:{position}", f"position:{last}"):
        (listed,), _ = listed_then(api, project, at=named)
        alone = accepted(api.client.get(f"/runs/{run['id']}", params={"at": named}))
        only_alone = {"synced": None, "reproductions": None}
        assert listed | only_alone == alone | only_alone


def lines_of(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_history_is_streamed_as_lines(api: Api, project: Project):
    run, other = project.started(), project.started()
    for seq in range(1, 60, 2):
        accepted(project.log(run, seq, {"a": {"step": list(range(2_000)), "value": [0.1] * 2_000}}), 202)
        accepted(project.write(run, seq + 1, "hello"), 202)
        accepted(project.log(other, seq, {"b": {"step": [1], "value": ["NaN"]}}), 202)
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    *lines, last = lines_of(api.client.get(f"/runs/{run['id']}/replay"))
    events = project.events(run)
    assert [line["id"] for line in lines] == [event["id"] for event in events]
    assert [line["data"] for line in lines] == [event["data"] for event in events]
    assert [line["state"]["status"] for line in lines if "state" in line] == ["queued", "running", "completed"]
    assert last["end"] == {"position": project.head()["position"], "told": len(events), "restored": 0, "erased": 0}

    after = {"after": lines[10]["position"], "until": str(lines[20]["position"]), "types": "run.logs_written"}
    *some, end = lines_of(api.client.get(f"/runs/{run['id']}/replay", params=after))
    assert some == [line for line in lines[11:21] if line["type"] == "run.logs_written"]
    assert end["end"]["position"] == lines[20]["position"]
    *every, _ = lines_of(api.client.get(f"/projects/{project.id}/replay"))
    assert [line["position"] for line in every] == list(range(1, project.head()["position"] + 1))

    for parameters in ({"from": "soon"}, {"until": "position:999"}, {"after": 999}, {"from": "1", "after": 1}):
        refused(api.client.get(f"/runs/{run['id']}/replay", params=parameters), 422)


def test_a_client_that_leaves_makes_room_for_others(api: Api, project: Project):
    run = project.started()
    for seq in range(1, 41):
        steps = list(range(20_000))
        accepted(project.log(run, seq, {"a": {"step": steps, "value": [0.1234567890123] * len(steps)}}), 202)
    path = f"/runs/{run['id']}/replay"
    small = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)])  # else all may fit
    with (
        httpx.Client(
            base_url=api.client.base_url, headers=api.client.headers, transport=small, timeout=SECONDS
        ) as slow,
        slow.stream("GET", path) as one,
        slow.stream("GET", path) as two,
    ):
        readers = [answer.iter_lines() for answer in (one, two)]  # kept: one that is dropped closes its stream
        assert all(next(reader) for reader in readers)
        problem = refused(api.client.get(path), 429)
        assert "of one key" in problem["detail"]
    until(lambda: api.client.get(path, params={"until": "1"}).status_code == 200, "there is room again")
