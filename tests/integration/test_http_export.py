"""Downloads of metrics, logs and events: whole, exact, and safe to open."""

import csv
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.api import Api, Json, Project, accepted, refused, serving, until
from tests.servers import NatsServer, PostgresServer

BIG = 2**53 + 1
PARQUET, ARROW = "parquet", "arrow"


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    roles = ["archiver", "projector", "relay", "alerter"]
    environment = {"TACHOGRAPH_ARCHIVE_TAIL_SECONDS": "0.1", "TACHOGRAPH_ARCHIVE_HOT_BYTES": "1"}
    with serving(postgres_server, nats_server, servers_home, roles=roles, environment=environment) as api:
        yield api


@pytest.fixture(scope="module")
def project(api: Api) -> Project:
    return api.project()


@pytest.fixture(scope="module")
def run(api: Api, project: Project) -> Json:
    """A run whose first points are in Parquet, and whose last may not be."""
    run = project.started(name="=run", config={"lr": 0.1})
    odd = ["NaN", "Infinity", "-Infinity", -0.0, 5e-324, 0.1 + 0.2]
    series = {"loss": {"step": [*range(5), BIG], "value": odd}, '=a,"b': {"step": [-1], "value": [1]}}
    accepted(project.log(run, 1, series, stage="@e"), 202)
    accepted(project.write(run, 2, "=cmd()", "ü\nsecond", "-1"), 202)

    def archived() -> bool:
        types = [event["type"] for event in project.events(run)]
        return types.count("run.telemetry_archived") >= 2

    until(archived, "points and lines are in Parquet")
    accepted(project.log(run, 3, {"loss": {"step": [7], "value": [float(np.float32(0.1))]}}), 202)
    return run


def table(api: Api, path: str, form: str, **query: Any) -> pa.Table:
    answer = api.client.get(path, params={"format": form, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    if form == PARQUET:
        return pq.read_table(io.BytesIO(answer.content))
    return pa.ipc.open_stream(answer.content).read_all()


def lines(api: Api, path: str, **query: Any) -> list[list[str]]:
    answer = api.client.get(path, params={"format": "csv", **query})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.reader(io.StringIO(answer.text)))


@pytest.mark.parametrize("form", [PARQUET, ARROW])
def test_points_come_out_bit_for_bit(api: Api, run: Json, form: str):
    found = table(api, f"/runs/{run['id']}/export", form)
    assert found.column_names == ["metric", "step", "time_us", "value", "stage", "position"]
    loss = [row for row in found.to_pylist() if row["metric"] == "loss"]
    assert [row["step"] for row in loss] == [0, 1, 2, 3, 4, BIG, 7]
    expected = [float("nan"), float("inf"), float("-inf"), -0.0, 5e-324, 0.1 + 0.2, float(np.float32(0.1))]
    assert struct.pack("<7d", *(row["value"] for row in loss)) == struct.pack("<7d", *expected)
    assert [row["stage"] for row in loss] == ["@e"] * 6 + [None]
    only = table(api, f"/runs/{run['id']}/export", form, metric='=a,"b')
    assert only.column("step").to_pylist() == [-1]


def test_csv_names_what_is_no_number_and_disarms_formulas(api: Api, run: Json):
    header, *rows = lines(api, f"/runs/{run['id']}/export", metric="loss")
    assert header == ["metric", "step", "time_us", "value", "stage", "position"]
    values = [row[3] for row in rows]
    assert values[:3] == ["NaN", "Infinity", "-Infinity"]
    assert [float(value) for value in values[3:]] == [-0.0, 5e-324, 0.1 + 0.2, float(np.float32(0.1))]
    assert values[3].startswith("-")
    assert rows[5][1] == str(BIG)
    assert rows[0][4] == "'@e"
    (odd,) = lines(api, f"/runs/{run['id']}/export", metric='=a,"b')[1:]
    assert odd[:2] == ["'=a,\"b", "-1"]
    texts = [row[2] for row in lines(api, f"/runs/{run['id']}/export", table="logs")[1:]]
    assert texts == ["'=cmd()", "ü\nsecond", "'-1"]


def test_events_come_out_in_order(api: Api, project: Project, run: Json):
    known = [event for event in project.events(run) if "seq" not in event]  # the archiver may add one meanwhile
    found = table(api, f"/runs/{run['id']}/export", PARQUET, table="events").to_pylist()
    assert [row["event_id"] for row in found[: len(known)]] == [event["id"] for event in known]
    header, *rows = lines(api, f"/runs/{run['id']}/export", table="events")
    assert [row[header.index("type")] for row in rows[: len(known)]] == [event["type"] for event in known]
    assert rows[0][header.index("recorded_at")].endswith("Z")


def test_a_project_is_exported_run_by_run_without_the_deleted(api: Api, project: Project, run: Json):
    gone = project.started(name="gone")
    accepted(project.log(gone, 1, {"loss": {"step": [1], "value": [1]}}), 202)
    accepted(api.client.post(f"/runs/{gone['id']}/finish", json={"epoch": 1, "status": "completed"}))
    other = project.started(name="other")
    accepted(project.log(other, 1, {"loss": {"step": [1], "value": [1]}}), 202)
    path = f"/projects/{project.id}/export"
    assert {*table(api, path, ARROW)["run_id"].to_pylist()} == {run["id"], gone["id"], other["id"]}
    accepted(api.client.delete(f"/runs/{gone['id']}"))
    assert {*table(api, path, PARQUET)["run_id"].to_pylist()} == {run["id"], other["id"]}
    assert {row[0] for row in lines(api, path, table="events")[1:]} == {run["id"], other["id"]}
    refused(api.client.get(f"/runs/{gone['id']}/export"), 410)


def test_nothing_comes_out_as_a_file_with_its_columns(api: Api, project: Project):
    empty = project.create(name="empty")
    path = f"/runs/{empty['id']}/export"
    assert lines(api, path) == [["metric", "step", "time_us", "value", "stage", "position"]]
    for form in (PARQUET, ARROW):
        assert table(api, path, form).num_rows == 0


def test_what_cannot_be_exported_is_refused(api: Api, run: Json):
    path = f"/runs/{run['id']}/export"
    assert api.client.get(path, params={"format": "xls"}).status_code in {400, 422}
    assert refused(api.client.get(path, params={"table": "logs", "metric": "a"}), 422)["errors"][0]["path"] == "metric"
    with api.other_tenant() as stranger:
        refused(stranger.get(path), 404)


def test_a_key_has_few_downloads_at_once(api: Api, project: Project):
    big = project.started(name="big")
    for seq in range(1, 41):
        column = list(range(20_000))
        accepted(project.log(big, seq, {"m": {"step": column, "value": column}}), 202)
    path = f"/runs/{big['id']}/export"
    with api.client.stream("GET", path) as first, api.client.stream("GET", path) as second:
        assert (first.status_code, second.status_code) == (200, 200)
        refused(api.client.get(path), 429)
        total = sum(1 for _ in first.iter_lines())
    assert total == 800_001

    def freed() -> httpx.Response | None:
        answer = api.client.get(path, params={"metric": "none"})
        return answer if answer.status_code == 200 else None

    until(freed, "the places are given back")


def test_an_archive_is_downloaded(api: Api, project: Project, run: Json):
    accepted(api.client.put(f"/runs/{run['id']}/artifacts/a/b.bin", content=b"123"), 201)
    for path, artifacts in (
        (f"/runs/{run['id']}/export/archive", "true"),
        (f"/projects/{project.id}/export/archive", "false"),
    ):
        answer = api.client.get(path, params={"artifacts": artifacts})
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            manifest = json.loads(archive.read("manifest.json"))
            assert manifest["position"] <= project.head()["position"]
            assert run["id"] in {one["run_id"] for one in manifest["runs"]}
            contents = [name for name in archive.namelist() if "/artifacts/" in name]
            assert [archive.read(name) for name in contents] == ([b"123"] if artifacts == "true" else [])
