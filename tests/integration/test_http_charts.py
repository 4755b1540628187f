"""Charts by HTTP: many runs and metrics, every format, and what is refused."""

import json
import math
from datetime import datetime
from typing import Any

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from events.ids import uuid7
from service.charts.answers import ChartAnswer, GroupChartAnswer
from tests.api import Api, Json, Project, accepted, refused, until

ROLES = ("projector",)

RAW = "application/vnd.tachograph.columns"
ARROW = "application/vnd.apache.arrow.stream"
COLUMNS = ["x", "x_first", "min", "max", "first", "last", "mean", "count", "nan", "posinf", "neginf"]
ABOUT = ["run", "metric", "known", "sampled", "points", "left_out"]


def number(value: Any) -> float:
    return float(value)  # takes NaN, Infinity and -Infinity by their names


def rows(series: Json) -> dict[str, list[float]]:
    """Return the columns of a JSON answer as numbers."""
    columns = {"x_first": series["x"], **series}
    return {name: [number(one) for one in columns[name]] for name in COLUMNS}


def raw(content: bytes) -> tuple[Json, list[dict[str, np.ndarray]]]:
    """Read an answer of raw columns as its documentation describes it."""
    assert content[:8] == b"TGCHART1"
    length = int.from_bytes(content[8:16], "little")
    header = json.loads(content[16 : 16 + length])
    found = []
    for one in header["series"]:
        assert one["offset"] % 8 == 0
        columns = {}
        for index, (name, kind) in enumerate(zip(one["columns"], one["types"], strict=True)):
            begin = one["offset"] + 8 * one["rows"] * index
            columns[name] = np.frombuffer(content, "<i8" if kind == "int64" else "<f8", one["rows"], begin)
        found.append(columns)
    return header, found


def arrow(content: bytes) -> tuple[Json, list[dict[str, np.ndarray]]]:
    with pa.ipc.open_stream(content) as reader:
        said = json.loads(reader.schema.metadata[b"tachograph"])
        batches = list(reader)
    for about, batch in zip(said["series"], batches, strict=True):
        assert {*batch.column("run").to_pylist()} <= {about["run"]}
        assert {*batch.column("metric").to_pylist()} <= {about["metric"]}
    return said, [{name: batch.column(name).to_numpy() for name in COLUMNS} for batch in batches]


def several(project: Project) -> list[Json]:
    """Log two metrics with something of everything in three runs."""
    runs = [project.started() for _ in range(3)]
    for index, run in enumerate(runs):
        steps = list(range(1 << 53, (1 << 53) + 5)) if index == 2 else [-1, 0, 1, 1, 7]
        values = ["NaN", "Infinity", -0.0, 5e-324, 0.1 + index]
        many = {"step": list(range(3_000)), "value": [float(step % 7) for step in range(3_000)]}
        accepted(project.log(run, 1, {"a": {"step": steps, "value": values}, "😀/b c": many}), 202)
    return runs


def test_every_format_says_the_same(api: Api, project: Project):
    runs = several(project)
    asked: dict[str, Any] = {
        "runs": [run["id"] for run in runs],
        "metric": ["a", "😀/b c", "none"],
        "buckets": 100,
    }
    path = f"/projects/{project.id}/chart"
    plain = api.client.get(path, params=asked)
    assert plain.headers["content-type"] == "application/json"
    answer = accepted(plain)
    msgspec.json.decode(plain.content, type=ChartAnswer)
    assert [(one["run"], one["metric"]) for one in answer["series"]] == [
        (run["id"], metric) for run in runs for metric in asked["metric"]
    ]
    assert [one["known"] for one in answer["series"]] == [True, True, False] * 3
    packed = api.client.get(path, params=asked, headers={"accept": "application/msgpack"})
    assert msgspec.msgpack.decode(packed.content) == answer
    for form, media_type, read in (("raw", RAW, raw), ("arrow", ARROW, arrow)):
        chosen = api.client.get(path, params=asked, headers={"accept": f"text/html, {media_type};q=0.9"})
        named = api.client.get(path, params={**asked, "format": form})
        assert (chosen.content, chosen.headers["content-type"]) == (named.content, media_type)
        assert chosen.headers["vary"] == "Accept"
        said, found = read(chosen.content)
        assert said["position"] == answer["position"]
        for series, about, columns in zip(answer["series"], said["series"], found, strict=True):
            assert {name: about[name] for name in ABOUT} == {name: series[name] for name in ABOUT}
            for name, expected in rows(series).items():
                np.testing.assert_array_equal(columns[name], expected)
        assert found[6]["x"].tolist() == list(range(1 << 53, (1 << 53) + 5)), "exact, however large"
        assert math.copysign(1, found[0]["last"][2]) == -1


def test_one_run_answers_as_it_does_among_many(api: Api, project: Project):
    runs = several(project)
    asked: dict[str, Any] = {"metric": ["😀/b c"], "buckets": 10, "yscale": "log"}
    ids = ",".join(run["id"] for run in runs)
    together = accepted(api.client.get(f"/projects/{project.id}/chart", params={**asked, "runs": ids}))["series"]
    alone = [accepted(api.client.get(f"/runs/{run['id']}/chart", params=asked))["series"][0] for run in runs]
    assert together == alone
    assert together[0]["nonpositive"] == [True] * 10
    assert together[0]["mean"] == pytest.approx([np.mean(np.arange(at, at + 300) % 7) for at in range(0, 3_000, 300)])


def test_x_may_be_another_metric(api: Api, project: Project):
    run = project.started()
    series = {"tokens": {"step": [1, 2], "value": [100.0, 200.0]}, "step": {"step": [1, 2, 3], "value": [3.0, 2.0, 1]}}
    accepted(project.log(run, 1, series), 202)
    path = f"/runs/{run['id']}/chart"
    (curve,) = accepted(api.client.get(path, params={"metric": "step", "x": "tokens"}))["series"]
    assert (curve["x"], curve["last"], curve["left_out"]) == ([100, 200], [3, 2], 1)
    (curve,) = accepted(api.client.get(path, params={"metric": "tokens", "x": "metric:step", "to": 2}))["series"]
    assert (curve["x"], curve["last"], curve["left_out"]) == ([2], [200], 0)
    (curve,) = accepted(api.client.get(path, params={"metric": "tokens", "x": "nowhere"}))["series"]
    assert (curve["points"], curve["known"], curve["left_out"]) == (0, True, 2)


def test_who_zooms_to_a_point_as_it_is_shown_sees_that_point_alone(project: Project):
    run = project.started()
    steps = list(range((1 << 53) - 1, (1 << 53) + 4))
    at_us = int(datetime.fromisoformat(run["started_at"]).timestamp() * 1e6) + 1_000
    times = [at_us + index for index in range(len(steps))]
    accepted(project.log(run, 1, {"a": {"step": steps, "value": [0.0] * 5, "time_us": times}}), 202)
    for x in ("step", "time", "relative"):
        (whole,) = accepted(project.api.get(f"/runs/{run['id']}/chart", params={"metric": "a", "x": x}))["series"]
        for one in whole["x"]:
            asked = {"metric": "a", "x": x, "from": repr(one), "to": repr(one)}
            (curve,) = accepted(project.api.get(f"/runs/{run['id']}/chart", params=asked))["series"]
            assert curve["x"] == [one]


@pytest.mark.parametrize(
    ("parameters", "status", "path", "limit"),
    [
        ({"x": "metric:"}, 422, "x", None),
        ({"x": ""}, 422, "x", None),
        ({"from": 2, "to": 1}, 422, "to", None),
        ({"from": "-inf"}, 422, "from", None),
        ({"from": "soon"}, 422, "$.from", None),
        ({"buckets": 0}, 422, "buckets", 1),
        ({"buckets": 20_001}, 413, "buckets", 20_000),
        ({"metric": [f"m{index}" for index in range(201)]}, 413, "metric", 200),
        ({"metric": [f"m{index}" for index in range(51)], "buckets": 20_000}, 413, "buckets", 1_000_000),
        ({"xscale": "cubic"}, 422, "$.xscale", None),
        ({"format": "xml"}, 422, "$.format", None),
        ({"metric": "a\0"}, 422, None, None),
    ],
)
def test_what_cannot_be_charted_is_refused_with_its_field(
    api: Api, project: Project, parameters: Json, status: int, path: str | None, limit: int | None
):
    run = project.started()
    asked = {"metric": "a", **parameters}
    for route, more in ((f"/runs/{run['id']}/chart", {}), (f"/projects/{project.id}/chart", {"runs": run["id"]})):
        problem = refused(api.client.get(route, params={**asked, **more}), status)
        if path is not None:
            assert problem["errors"][0]["path"] == path
        assert problem.get("limit") == limit
        if parameters == {"xscale": "cubic"}:
            assert problem["errors"][0]["expected"] == ["linear", "log"]


def test_runs_that_cannot_be_charted_are_named(api: Api, project: Project):
    route = f"/projects/{project.id}/chart"
    run, elsewhere, gone = project.started(), api.project().started(), project.finished()
    accepted(api.client.delete(f"/runs/{gone['id']}"))

    def answer(*runs: str) -> httpx.Response:
        return api.client.get(route, params={"metric": "a", "runs": list(runs)})

    accepted(answer(run["id"], run["id"]))
    for unknown in (elsewhere["id"], str(uuid7())):
        assert unknown in refused(answer(run["id"], unknown), 404)["detail"]
    assert gone["id"] in refused(answer(run["id"], gone["id"]), 410)["detail"]
    for wrong in ("", "run-1", "\0", "🦊"):
        assert refused(answer(wrong), 422)["errors"][0]["path"] == "runs"
    many = refused(answer(",".join(str(uuid7()) for _ in range(1_001))), 413)
    assert (many["errors"][0]["path"], many["limit"]) == ("runs", 1_000)
    with api.other_tenant() as other:
        refused(other.get(route, params={"metric": "a", "runs": run["id"]}), 404)


def conditional(api: Api, path: str, asked: Json, tag: str, **headers: str) -> httpx.Response:
    return api.client.get(path, params=asked, headers={"If-None-Match": tag, **headers})


@pytest.mark.parametrize("accept", ["application/json", "application/msgpack", RAW, ARROW])
def test_who_has_the_answer_already_is_told_so(api: Api, project: Project, accept: str):
    run, other = project.started(), project.started()
    accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)
    path = f"/projects/{project.id}/chart"
    asked: dict[str, Any] = {"metric": "a", "runs": f"{run['id']},{other['id']}"}
    first = api.client.get(path, params=asked, headers={"accept": accept})
    assert (first.status_code, first.headers["cache-control"]) == (200, "private, no-cache")
    tag = first.headers["etag"]
    accepted(project.write(run, 2, "a line is no point"), 202)
    for known in (tag, f'"x", {tag}', tag.removeprefix("W/")):
        again = conditional(api, path, asked, known, accept=accept)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for change in ({"buckets": 7}, {"metric": "b"}, {"runs": run["id"]}, {"from": 1}, {"xscale": "log"}, {"x": "time"}):
        assert conditional(api, path, {**asked, **change}, tag, accept=accept).status_code == 200
    accepted(project.log(other, 1, {"a": {"step": [1], "value": [1.0]}}), 202)
    newer = conditional(api, path, asked, tag, accept=accept)
    assert newer.status_code == 200
    assert newer.headers["etag"] != tag


def test_a_chart_that_is_known_is_gone_with_its_run(api: Api, project: Project):
    run = project.finished()
    path = f"/runs/{run['id']}/chart"
    tag = api.client.get(path, params={"metric": "a"}).headers["etag"]
    assert conditional(api, path, {"metric": "a"}, tag).status_code == 304
    accepted(api.client.delete(f"/runs/{run['id']}"))
    refused(conditional(api, path, {"metric": "a"}, tag), 410)


def test_a_live_chart_asks_only_for_what_is_new(api: Api, project: Project):
    run, other = project.started(), project.started()
    path = f"/projects/{project.id}/chart"
    asked: dict[str, Any] = {"metric": ["a", "b"], "runs": [run["id"], other["id"]]}
    whole = accepted(api.client.get(path, params=asked))
    seen: list[float] = []
    position = whole["position"]
    for seq in range(1, 6):
        steps = [10 * seq, 10 * seq + 1, 5]  # the last of them comes late, and again
        accepted(project.log(run, seq, {"a": {"step": steps, "value": [float(seq)] * 3}}), 202)
        tail = api.client.get(path, params={**asked, "after": position})
        assert tail.headers["cache-control"] == "no-store"
        answer = accepted(tail)
        curve, *empty = answer["series"]
        assert curve["x"] == sorted(steps)
        assert curve["last"] == [float(seq)] * 3
        assert [one["points"] for one in empty] == [0, 0, 0]
        assert answer["position"] > position
        position = answer["position"]
        seen += curve["x"]
    assert accepted(api.client.get(path, params={**asked, "after": position}))["series"][0]["points"] == 0
    assert sorted(seen) == accepted(api.client.get(path, params=asked))["series"][0]["x"]
    for wrong in (-1, position + 1, 1 << 62):
        problem = refused(api.client.get(path, params={**asked, "after": wrong}), 422)
        assert problem["errors"][0]["path"] == "after"
    problem = refused(api.client.get(path, params={**asked, "after": 1, "x": "b"}), 422)
    assert problem["errors"][0]["path"] == "after"


def test_a_smoothed_curve_stands_beside_the_curve(api: Api, project: Project):
    run = project.started()
    values = [0.0, 10.0, "NaN", 10.0]
    accepted(project.log(run, 1, {"a": {"step": [1, 2, 3, 4], "value": values}}), 202)
    path = f"/runs/{run['id']}/chart"
    for smooth, expected in (
        ("mean:2", [5.0, 5.0, "NaN", 10.0]),
        ("mean:4", [5.0, 20 / 3, "NaN", 10.0]),
        ("gaussian:0.01", [0.0, 10.0, "NaN", 10.0]),
        ("ema:1e-9", [0.0, 10.0, "NaN", 10.0]),
    ):
        (curve,) = accepted(api.client.get(path, params={"metric": "a", "smooth": smooth}))["series"]
        assert curve["last"] == values
        assert [number(one) for one in curve["smoothed"]] == pytest.approx(
            [number(one) for one in expected], nan_ok=True
        )
    said, (columns,) = raw(api.client.get(path, params={"metric": "a", "smooth": "mean:2", "format": "raw"}).content)
    assert said["series"][0]["columns"][-1] == "smoothed"
    assert columns["smoothed"].tolist()[:2] == [5.0, 5.0]
    for wrong in ({"smooth": "mean"}, {"smooth": "ema:2"}, {"smooth": "mean:1", "after": 1}):
        problem = refused(api.client.get(path, params={"metric": "a", **wrong}), 422)
        assert problem["errors"][0]["path"] == "smooth"


def logged(project: Project, config: Json, tags: list[str], values: list[float]) -> Json:
    run = project.started(config=config, tags=tags)
    accepted(project.log(run, 1, {"loss": {"step": list(range(len(values))), "value": values}}), 202)
    return run


def test_runs_are_grouped_by_whatever_lists_are(api: Api, project: Project):
    slow = [logged(project, {"lr": 0.1}, ["x", "y"], [1.0, 2.0, 3.0]), logged(project, {"lr": 0.1}, [], [3.0, 4.0])]
    fast = logged(project, {"lr": 1}, ["y"], [10.0])
    bare = project.started()
    route = f"/projects/{project.id}/chart/groups"
    asked: dict[str, Any] = {
        "metric": "loss",
        "runs": ",".join(run["id"] for run in [*slow, fast, bare]),
        "group": "config.lr",
        "buckets": 3,
    }
    plain = api.client.get(route, params=asked)
    msgspec.json.decode(plain.content, type=GroupChartAnswer)
    first, second, none = accepted(plain)["series"]
    assert [(one["group"], one["members"]) for one in (first, second, none)] == [(0.1, 2), (1, 1), (None, 1)]
    assert (first["x"], first["mean"], first["runs"]) == ([0, 1, 2], [2.0, 3.0, 3.0], [2, 2, 1])
    assert (first["min"], first["max"]) == ([1.0, 2.0, 3.0], [3.0, 4.0, 3.0])
    assert (second["x"], second["mean"], none["points"]) == ([0], [10.0], 0)
    tags = accepted(api.client.get(route, params={**asked, "group": "tags"}))["series"]
    assert [(one["group"], one["members"]) for one in tags] == [("y", 2), (None, 2), ("x", 1)]
    status = accepted(api.client.get(route, params={**asked, "group": "status", "smooth": "mean:9"}))["series"]
    assert [(one["group"], one["smoothed"]) for one in status] == [("running", pytest.approx([23 / 6] * 3))]
    said, found = arrow_groups(api.client.get(route, params={**asked, "format": "arrow"}).content)
    assert [one["group"] for one in said["series"]] == [0.1, 1, None]
    assert found[0]["mean"].tolist() == [2.0, 3.0, 3.0]
    tag = plain.headers["etag"]
    assert plain.headers["cache-control"] == "private, no-cache"
    assert conditional(api, route, asked, tag).status_code == 304
    accepted(api.client.patch(f"/runs/{bare['id']}", json={"config": {"lr": 7}}))
    assert conditional(api, route, asked, tag).status_code == 200
    for wrong, path in (
        ({"group": "colour"}, "group"),
        ({"group": ""}, "group"),
        ({"after": 1}, "after"),
        ({"runs": ""}, "runs"),
        ({"buckets": 20_001}, "buckets"),
    ):
        answer = api.client.get(route, params={**asked, **wrong})
        assert answer.status_code in {413, 422}
        assert refused(answer, answer.status_code)["errors"][0]["path"] == path


def arrow_groups(content: bytes) -> tuple[Json, list[dict[str, np.ndarray]]]:
    with pa.ipc.open_stream(content) as reader:
        said = json.loads(reader.schema.metadata[b"tachograph"])
        names = [name for name in reader.schema.names if name not in {"group", "metric"}]
        return said, [{name: batch.column(name).to_numpy() for name in names} for batch in reader]


def test_runs_are_found_by_the_filter_of_lists(api: Api, project: Project):
    runs = [logged(project, {"lr": lr}, [], [lr]) for lr in (0.1, 0.2, 0.3)]
    for route in ("chart", "chart/groups"):
        path = f"/projects/{project.id}/{route}"
        asked: dict[str, Any] = {"metric": "loss", "group": "config.lr", "filter": "config.lr > 0.15"}
        until(lambda: len(accepted(api.client.get(path, params=asked))["series"]) == 2, "the search knows the runs")  # noqa: B023
        found = accepted(api.client.get(path, params=asked))["series"]
        assert sorted(one["mean"][0] for one in found) == [0.2, 0.3]
        answer = accepted(api.client.get(path, params={**asked, "limit": 1}))
        assert ([one["mean"] for one in answer["series"]], answer["more_runs"]) == ([[0.3]], True)
        nothing = api.client.get(path, params={**asked, "filter": "config.lr > 5"})
        assert accepted(nothing) == {"series": [], "position": 0, "more_runs": False}
        assert nothing.headers["cache-control"] == "private, no-cache"
        for wrong, name in (({"filter": "lr >"}, "filter"), ({"runs": runs[0]["id"]}, "runs")):
            assert refused(api.client.get(path, params={**asked, **wrong}), 422)["errors"][0]["path"] == name
        live = api.client.get(path, params={**asked, "after": 1})
        assert refused(live, 422)["errors"][0]["path"] == "after"
        missing = api.client.get(path, params={"metric": "loss", "group": "status"})
        assert refused(missing, 422)["errors"][0]["path"] == "runs"
