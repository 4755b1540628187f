"""Batches of metrics and logs: what is refused, what is kept exactly, and what comes twice."""

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.api import Api, Project, accepted, refused

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
MAX_BYTES = 8 << 20
MAX_POINTS = 100_000
POINT = {"a": {"step": [1], "value": [1.0]}}


def one(**column: Any) -> dict[str, Any]:
    return {"series": {"a": {"step": [1], "value": [1.0], **column}}}


@pytest.mark.parametrize(
    ("fields", "path", "limit"),
    [
        ({}, "$", None),
        ({"series": {}}, "$.series", None),
        ({"series": []}, "$.series", None),
        ({"series": {"a": {"step": [], "value": []}}}, "$.series", None),
        ({"series": {"a": {"step": [1]}}}, "$.series", None),
        (one(step=[1, 2]), "$.series['a'].value", None),
        (one(value=[1.0, 2.0]), "$.series['a'].value", None),
        (one(time_us=[]), "$.series['a'].time_us", None),
        (one(stage=["x", "y"]), "$.series['a'].stage", None),
        (one(step=[1.5]), "$.series[...].step[0]", None),
        (one(step=[1.0]), "$.series[...].step[0]", None),
        (one(step=["1"]), "$.series[...].step[0]", None),
        (one(step=[True]), "$.series[...].step[0]", None),
        (one(step=[None]), "$.series[...].step[0]", None),
        (one(step=1), "$.series[...].step", None),
        (one(step=[1 << 63]), "$.series['a'].step", None),
        (one(step=[-(1 << 63) - 1]), "$.series['a'].step", None),
        (one(step=[1 << 200]), "$.series['a'].step", None),
        (one(time_us=[1 << 64]), "$.series['a'].time_us", None),
        (one(value=["high"]), "$.series[...].value[0]", None),
        (one(value=["nan"]), "$.series[...].value[0]", None),
        (one(value=[None]), "$.series[...].value[0]", None),
        (one(value=[10**400]), "$.series['a'].value", 1 << 53),
        (one(colour=["red"]), "$.series[...]", None),
        ({"series": {"": POINT["a"]}}, "$.series['']", 250),
        ({"series": {"é" * 125 + "a": POINT["a"]}}, "$.series['é", 250),
        ({"series": {"a\0": POINT["a"]}}, "$.series['a", None),
        ({"series": {"a\n": POINT["a"]}}, "$.series['a", None),
        ({"series": POINT, "stage": "x" * 251}, "$.stage", 250),
        ({"series": POINT, "source": ""}, "$.source", 1),
        ({"series": POINT, "source": "s" * 65}, "$.source", 64),
        ({"series": POINT, "source": "sdk\n"}, "$.source", None),
        ({"series": POINT, "source": "a b"}, "$.source", None),
        ({"series": POINT, "seq": 0}, "$.seq", 1),
        ({"series": POINT, "seq": -1}, "$.seq", 1),
        ({"series": POINT, "seq": (1 << 62) + 1}, "$.seq", 1 << 62),
        ({"series": POINT, "seq": "1"}, "$.seq", None),
        ({"series": POINT, "seq": 1.5}, "$.seq", None),
        ({"series": POINT, "epoch": -1}, "$.epoch", 0),
        ({"series": POINT, "epoch": None}, "$.epoch", None),
        ({"series": POINT, "extra": 1}, "$", None),
    ],
)
def test_a_wrong_batch_is_refused_whole(
    api: Api, project: Project, fields: dict[str, Any], path: str, limit: int | None
):
    run = project.started()
    before = project.head()
    for route in ("metrics", "system-metrics"):
        body = {"epoch": 1, "seq": 1, **fields}
        problem = refused(api.client.post(f"/runs/{run['id']}/{route}", json=body), 422)
        assert problem["errors"][0]["path"].startswith(path)
        assert problem.get("limit") == limit
    assert project.head() == before
    accepted(project.log(run, 1, POINT), 202)


def test_one_wrong_series_takes_the_whole_batch_with_it(api: Api, project: Project):
    run = project.started()
    refused(project.log(run, 1, {**POINT, "b": {"step": [1, 2], "value": [1.0]}}), 422)
    series = accepted(api.client.get(f"/runs/{run['id']}/chart", params={"metric": ["a", "b"]}))["series"]
    assert [curve["points"] for curve in series] == [0, 0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", JSON),
        (b'{"epoch": 1, "seq"', JSON),
        (b'{"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [NaN]}}}', JSON),
        (b'{"epoch": 1, "seq": 1, "series": {"a": {"step": [1], "value": [Infinity]}}}', JSON),
        (b"\xc1", MSGPACK),
        (msgspec.msgpack.encode({"epoch": 1, "seq": 1, "series": POINT})[:-1], MSGPACK),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(api: Api, project: Project, body: bytes, headers: dict[str, str]):
    run = project.started()
    before = project.head()
    problem = refused(api.client.post(f"/runs/{run['id']}/metrics", content=body, headers=headers), 400)
    assert "cannot be read" in problem["detail"]
    assert project.head() == before


def test_a_batch_has_at_most_a_hundred_thousand_points(api: Api, project: Project):
    run = project.started()
    steps = list(range(MAX_POINTS + 1))
    values = [float(step) for step in steps]
    too_many = {
        "one series": {"a": {"step": steps, "value": values}},
        "together": {
            "a": {"step": steps[:60_000], "value": values[:60_000]},
            "b": {"step": steps[:40_001], "value": values[:40_001]},
        },
    }
    before = project.head()
    for series in too_many.values():
        problem = refused(project.log(run, 1, series), 422)
        assert (problem["errors"][0]["path"], problem["limit"]) == ("$.series", MAX_POINTS)
    assert project.head() == before
    answer = accepted(project.log(run, 1, {"a": {"step": steps[:-1], "value": values[:-1]}}), 202)
    assert answer["accepted"] == MAX_POINTS
    assert answer["position"] == project.head()["position"]
    (curve,) = accepted(api.client.get(f"/runs/{run['id']}/chart", params={"metric": "a", "buckets": 100}))["series"]
    assert (curve["points"], sum(curve["count"]), curve["sampled"]) == (MAX_POINTS, MAX_POINTS, True)
    assert (curve["min"][0], curve["max"][-1]) == (0, MAX_POINTS - 1)


def padded(seq: int, size: int, *, pieces: bool) -> bytes | Iterator[bytes]:
    body = msgspec.json.encode({"epoch": 1, "seq": seq, "series": POINT})
    whole = body + b" " * (size - len(body))
    if not pieces:
        return whole
    return (whole[start : start + 262_144] for start in range(0, size, 262_144))


@pytest.mark.parametrize("pieces", [False, True])
def test_a_batch_has_at_most_eight_mebibytes(api: Api, project: Project, pieces: bool):  # noqa: FBT001
    run = project.started()
    path = f"/runs/{run['id']}/metrics"
    before = project.head()
    problem = refused(api.client.post(path, content=padded(1, MAX_BYTES + 1, pieces=pieces), headers=JSON), 413)
    assert problem["limit"] == MAX_BYTES
    assert project.head() == before
    accepted(api.client.post(path, content=padded(1, MAX_BYTES, pieces=pieces), headers=JSON), 202)


def test_names_and_sources_at_their_limits_are_taken(api: Api, project: Project):
    run = project.started()
    names = ["a" * 250, "é" * 125, "🦊" * 62, "loss / val: (%)", "'\"\\"]
    series = {name: {"step": [1], "value": [float(index)]} for index, name in enumerate(names)}
    accepted(project.log(run, 1, series, source="s" * 64, stage="x" * 250), 202)
    accepted(project.log(run, 1 << 62, POINT), 202)
    curves = accepted(api.client.get(f"/runs/{run['id']}/chart", params={"metric": names}))["series"]
    assert [(curve["metric"], curve["last"]) for curve in curves] == [(name, [i]) for i, name in enumerate(names)]


def test_numbers_are_kept_exactly_to_the_last_bit(api: Api, project: Project):
    run = project.started()
    values = ["NaN", "Infinity", "-Infinity", 0.1, 5e-324, 1.7976931348623157e308, -0.0, 3]
    steps = [-(1 << 63), -1, 0, 1, 2, 3, 4, (1 << 63) - 1]
    accepted(project.log(run, 1, {"a": {"step": steps, "value": values}}), 202)
    (curve,) = accepted(api.client.get(f"/runs/{run['id']}/chart", params={"metric": "a"}))["series"]
    assert curve["x"] == steps
    assert curve["last"] == values
    assert math.copysign(1, curve["last"][6]) == -1
    assert (curve["nan"], curve["posinf"], curve["neginf"]) == (
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
    )
    (event,) = [event for event in project.events(run) if event["type"] == "run.metrics_logged"]
    assert event["data"]["series"]["a"]["value"] == values


def test_messagepack_says_the_same_as_json(api: Api, project: Project):
    run = project.started()
    path = f"/runs/{run['id']}/metrics"
    column = {"step": [1, 2], "value": [float("nan"), 0.5], "time_us": [1, 2]}
    batch = {"epoch": 1, "seq": 1, "series": {"a": column}}
    headers = {**MSGPACK, "accept": "application/msgpack"}
    packed = api.client.post(path, content=msgspec.msgpack.encode(batch), headers=headers)
    assert (packed.status_code, packed.headers["content-type"]) == (202, "application/msgpack")
    column["value"] = ["NaN", 0.5]
    assert accepted(api.client.post(path, json=batch), 202) == msgspec.msgpack.decode(packed.content)


def test_the_same_batch_again_is_answered_the_same_and_stored_once(api: Api, project: Project):
    run = project.started()
    timed = {"a": {"step": [1], "value": ["NaN"], "time_us": [5]}}
    first = [project.log(run, 1, timed), project.log(run, 2, POINT), project.write(run, 3, "hello")]
    head = project.head()
    again = [project.log(run, 1, timed), project.log(run, 2, POINT), project.write(run, 3, "hello")]
    assert [(answer.status_code, answer.content) for answer in again] == [(202, answer.content) for answer in first]
    positions = [answer.headers["tachograph-position"] for answer in first]
    assert [answer.headers["tachograph-position"] for answer in again] == positions
    assert project.head() == head
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    assert project.log(run, 2, POINT).content == first[1].content


def test_a_key_that_was_used_for_something_else_is_a_conflict(api: Api, project: Project):
    run = project.started()
    accepted(project.log(run, 1, POINT), 202)
    head = project.head()
    refused(project.log(run, 1, {"a": {"step": [1], "value": [2.0]}}), 409)
    refused(project.log(run, 1, {"b": {"step": [1], "value": [1.0]}}), 409)
    refused(project.log(run, 1, POINT, stage="train"), 409)
    refused(project.write(run, 1, "a line"), 409)
    refused(api.client.post(f"/runs/{run['id']}/system-metrics", json={"epoch": 1, "seq": 1, "series": POINT}), 409)
    assert project.head() == head
    accepted(project.log(run, 1, POINT, source="worker"), 202)


def test_only_the_latest_attempt_of_a_started_run_may_log(api: Api, project: Project):
    queued = project.create()
    problem = refused(project.log(queued, 1, POINT), 409)
    assert (problem["state"], problem["allowed"]) == ("queued", ["start"])
    run = project.started()
    refused(project.log(run, 1, POINT, epoch=0), 409)
    refused(project.log(run, 1, POINT, epoch=2), 409)
    accepted(project.log(run, 1, POINT), 202)
    accepted(api.client.post(f"/runs/{run['id']}/start", json={}))
    refused(project.log(run, 2, POINT), 409)
    accepted(project.log(run, 1, POINT, epoch=2), 202)
    assert project.log(run, 1, POINT).status_code == 202, "what the first attempt had sent stays answered"


def test_what_was_still_under_way_may_arrive_after_the_end(api: Api, project: Project):
    run = project.started()
    accepted(project.log(run, 1, POINT), 202)
    end = {"epoch": 1, "status": "completed", "last_seq": {"sdk": 2}}
    accepted(api.client.post(f"/runs/{run['id']}/finish", json=end))
    assert accepted(api.client.get(f"/runs/{run['id']}"))["synced"] is False
    accepted(project.log(run, 2, POINT), 202)
    assert accepted(api.client.get(f"/runs/{run['id']}"))["synced"] is True


@pytest.mark.parametrize(
    ("fields", "path", "limit"),
    [
        ({}, "$", None),
        ({"lines": []}, "$.lines", None),
        ({"lines": ["a"]}, "$.lines[0]", None),
        ({"lines": [{"text": 3}]}, "$.lines[0].text", None),
        ({"lines": [{"text": "a", "stream": "stdin"}]}, "$.lines[0].stream", None),
        ({"lines": [{"text": "a", "time_us": 1 << 70}]}, "$.lines", None),
        ({"lines": [{"text": "a", "level": "info"}]}, "$.lines[0]", None),
        ({"lines": [{"text": "a"}] * 10_001}, "$.lines", 10_000),
        ({"lines": [{"text": "a" * 65_537}]}, "$.lines[0].text", 65_536),
    ],
)
def test_wrong_lines_are_refused_whole(
    api: Api, project: Project, fields: dict[str, Any], path: str, limit: int | None
):
    run = project.started()
    before = project.head()
    problem = refused(api.client.post(f"/runs/{run['id']}/logs", json={"epoch": 1, "seq": 1, **fields}), 422)
    assert problem["errors"][0]["path"].startswith(path)
    assert problem.get("limit") == limit
    assert project.head() == before


def test_lines_at_their_limits_are_taken(api: Api, project: Project):
    run = project.started()
    accepted(project.write(run, 1, *["a"] * 10_000), 202)
    accepted(project.write(run, 2, "🦊" * 65_536), 202)
    page = accepted(api.client.get(f"/runs/{run['id']}/logs", params={"tail": 2}))
    assert [len(line["text"]) for line in page["lines"]] == [1, 65_536]
