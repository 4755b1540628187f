"""SQL over a project: what is answered, from what is archived and what is not, and what nobody gets out of it."""

import csv
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from projections.query.limits import Limits
from projections.query.process import Answer, Refused, Statement
from projections.query.queries import AHEAD
from stack.process import ROOT
from tachograph import Client
from tests.api import SECONDS, Api, Json, Project, accepted, refused, serving, until
from tests.integration.test_http_deletion import archived
from tests.servers import NatsServer, PostgresServer

QUERY_SECONDS = 30
WAITING = AHEAD
"""Processes that wait for a query."""
BIG = (1 << 63) - 1


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    limits = {"SECONDS": str(QUERY_SECONDS), "ROWS": "50000", "BYTES": "2000000", "SQL_BYTES": "5000"}
    environment = {f"TACHOGRAPH_QUERY_{name}": value for name, value in limits.items()}
    with serving(postgres_server, nats_server, servers_home, roles=("roles",), environment=environment) as api:
        yield api


@pytest.fixture(scope="module")
def project(api: Api) -> Project:
    """A project with an archived run, one under way, and one that was deleted."""
    project = api.project()
    done = project.started(name="done", config={"lr": 0.1, "layers": [1, 2]}, tags=["a", "ü"])
    logged(project, done, range(100))
    accepted(api.client.post(f"/runs/{done['id']}/finish", json={"epoch": 1, "status": "completed"}))
    under_way = project.started(name="hot")
    logged(project, under_way, range(BIG - 4, BIG + 1))
    accepted(api.client.put(f"/runs/{under_way['id']}/artifacts/a.bin", content=b"123"), 201)
    gone = project.started(name="gone")
    logged(project, gone, range(7))
    accepted(api.client.post(f"/runs/{gone['id']}/finish", json={"epoch": 1, "status": "completed"}))
    until(lambda: archived(project, done), "the run's telemetry is in Parquet")
    accepted(api.client.delete(f"/runs/{gone['id']}"))
    return project


def logged(project: Project, run: Json, steps: range) -> None:
    values: list[Any] = [step / 7 for step in range(len(steps))]
    values[:3] = ["NaN", "Infinity", "-Infinity"]
    accepted(project.log(run, 1, {"loss": {"step": list(steps), "value": values}}, stage="epoch 1"), 202)
    accepted(project.write(run, 2, "first", f"secret of {run['name']}"), 202)


def asked(project: Project, sql: str, parameters: Any = None, **query: str) -> Any:
    return project.api.post(f"/projects/{project.id}/query", json={"sql": sql, "parameters": parameters}, params=query)


def rows(project: Project, sql: str, parameters: Any = None) -> list[list[Any]]:
    found: list[list[Any]] = accepted(asked(project, sql, parameters))["rows"]
    return found


def test_archived_and_hot_points_are_one_table(project: Project):
    sql = """
        select name, count(*), count(*) filter (where isnan(value)), max(step), any_value(metric), any_value(m.stage)
        from metrics m join runs using (run_id) group by name order by name
    """
    assert rows(project, sql) == [["done", 100, 1, 99, "loss", "epoch 1"], ["hot", 5, 1, BIG, "loss", "epoch 1"]]
    sql = "select value, step from metrics join runs using (run_id) where name = $name order by step limit 4"
    assert rows(project, sql, {"name": "done"}) == [["NaN", 0], ["Infinity", 1], ["-Infinity", 2], [3 / 7, 3]]
    assert rows(project, "select text from logs where position > ? order by position, line", [0]) == [
        ["first"],
        ["secret of done"],
        ["first"],
        ["secret of hot"],
    ]


def test_every_view_answers_and_none_tells_of_a_deleted_run(project: Project):
    found = rows(project, "select name, status, tags, config->>'$.lr', training_seconds > 0 from runs order by name")
    assert found == [["done", "completed", ["a", "ü"], "0.1", True], ["hot", "running", [], None, True]]
    sql = "select name, from_status, to_status from transitions t join runs using (run_id) order by t.position"
    assert ["done", "running", "completed"] in rows(project, sql)
    until(lambda: rows(project, "select count(*) from credits") == [[2]], "the credits are counted")
    assert rows(project, "select name, bytes, kind from artifacts") == [["a.bin", 3, "file"]]
    events = rows(project, "select type, data->>'$.name' from events where run_id is not null order by position")
    assert ["run.created", "done"] in events
    assert ["run.created", "gone"] not in events
    assert not [type_ for type_, _ in events if type_ == "run.deleted"]
    for view in ("runs", "metrics", "logs", "events", "transitions", "credits", "artifacts"):
        described = rows(project, f"describe {view}")
        assert [row[0] for row in described]
        assert "gone" not in asked(project, f"select * from {view}", format="csv").text


def test_a_query_answers_in_every_format(project: Project):
    sql = "select run_id, step, value, created_at from metrics join runs using (run_id) order by created_at, step"
    answer = accepted(asked(project, sql))
    assert [one["type"] for one in answer["columns"]] == ["VARCHAR", "BIGINT", "DOUBLE", "TIMESTAMP WITH TIME ZONE"]
    assert answer["rows"][-1][1] == BIG
    arrow = asked(project, sql, format="arrow")
    assert arrow.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.schema.types == [pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", "UTC")]
    parquet = pq.read_table(io.BytesIO(asked(project, sql, format="parquet").content))
    assert parquet.column("step").to_pylist() == table.column("step").to_pylist() == [row[1] for row in answer["rows"]]
    lines = list(csv.reader(io.StringIO(asked(project, sql, format="csv").text)))
    assert lines[0] == ["run_id", "step", "value", "created_at"]
    assert [line[:3] for line in lines[1:3]] == [
        [answer["rows"][0][0], "0", "NaN"],
        [answer["rows"][0][0], "1", "Infinity"],
    ]
    path = f"/projects/{project.id}/query"
    accept = project.api.post(path, json={"sql": sql}, headers={"accept": "application/vnd.apache.parquet"})
    assert pq.read_table(io.BytesIO(accept.content)).num_rows == 105


def test_a_format_that_there_is_not_is_told_with_those_that_there_are(project: Project):
    answer = project.api.post(f"/projects/{project.id}/query", params={"format": "xml"}, json={"sql": "select 1"})
    (error,) = refused(answer, 422)["errors"]
    assert error["path"] == "$.format"
    assert error["expected"] == ["arrow", "csv", "json", "parquet", "spreadsheet"]
    assert asked(project, "select 1", format="csv").headers["content-type"] == "text/csv; charset=utf-8"


@pytest.mark.parametrize("change", [{"form": "xml"}, {"limits": {"seconds": "many"}}, {"type": "Query"}])
def test_a_process_blames_no_statement_for_a_message_that_it_cannot_read(change: Json):
    known = msgspec.to_builtins(Statement("select 1", None, "json", Limits(), ())) | change
    body = msgspec.msgpack.encode(known)
    done = subprocess.run(
        [sys.executable, "-m", "projections.query.process"],
        input=len(body).to_bytes(8, "little") + body,
        capture_output=True,
        cwd=ROOT,
        timeout=SECONDS,
        check=True,
    )
    answer = msgspec.msgpack.decode(done.stdout[8:], type=Answer)
    assert isinstance(answer, Refused)
    assert answer.kind == "fault"
    assert f"$.{next(iter(change))}" in answer.detail


FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]


def test_a_spreadsheet_computes_nothing_that_a_program_logged(project: Project):
    sql = """
        select text as "=text", -1.5::double as number, -12::decimal(9, 2) as decimal, -3 as whole,
               '-inf'::double as infinite, ['=1'] as nested
        from (select unnest($texts::varchar[]) as text)
    """
    texts = [*FORMULAS, "plain", "'=1", " =1", "", None]
    rows = {}
    for form in ("csv", "spreadsheet"):
        answer = asked(project, sql, {"texts": texts}, format=form)
        assert answer.headers["content-type"].startswith("text/csv"), answer.text
        rows[form] = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert [row[0] for row in rows["csv"]] == ["=text", *FORMULAS, "plain", "'=1", " =1", "", ""]
    assert [row[0] for row in rows["spreadsheet"]] == [
        "'=text", *(f"'{text}" for text in FORMULAS), "plain", "'=1", " =1", "", "",
    ]  # fmt: skip
    assert [row[1:] for row in rows["spreadsheet"]] == [row[1:] for row in rows["csv"]]
    assert rows["csv"][1][1:5] == ["-1.5", "-12.00", "-3", "-Infinity"]


@pytest.mark.parametrize(
    ("sql", "parameters", "says"),
    [
        ("selec 1", None, "syntax error"),
        ("select nope from runs", None, "nope"),
        ("select 1; select 2", None, "exactly one statement"),
        ("select * from '/etc/passwd'", None, "there is no table"),
        ("select * from read_csv('/etc/passwd')", None, "read_csv"),
        ("select * from glob('/**')", None, "glob"),
        ("select getenv('HOME')", None, "getenv"),
        ("attach '/tmp/x.db'", None, "ATTACH"),
        ("copy runs to '/tmp/x.csv'", None, "COPY"),
        ("pragma version", None, "PRAGMA"),
        ("set threads = 64", None, "SET"),
        ("install httpfs", None, "LOAD"),
        ("call duckdb_settings()", None, "CALL"),
        ("select * from duckdb_secrets()", None, "duckdb_secrets"),
        ("select $a", {"b": 1}, "parameter"),
        ("select 'x'::int", None, "Could not convert"),
    ],
)
def test_what_is_no_query_is_refused_in_words(api: Api, project: Project, sql: str, parameters: Any, says: str):
    problem = refused(asked(project, sql, parameters), 422)
    assert problem["type"] == "urn:tachograph:problem:query-refused"
    assert problem["errors"][0]["path"] == "$.sql"
    assert says in problem["detail"]
    assert str(api.home) not in problem["detail"]


def test_one_project_sees_nothing_of_another(api: Api, project: Project):
    other = api.project()
    assert rows(other, "select count(*) from metrics") == [[0]]
    assert rows(other, "select count(*) from runs") == [[0]]
    file = next((api.home / "parquet" / f"ledger={project.id}").glob("run=*/metrics-*.parquet"))
    for sql in (
        f"select * from read_parquet('{file}')",
        f"select * from '{file}'",
        f"select * from parquet_schema('{file}')",
    ):
        refused(asked(other, sql), 422)
        refused(asked(project, sql), 422)
    with api.other_tenant() as tenant, api.as_caller(None) as nobody:
        for caller, status in ((tenant, 404), (nobody, 401)):
            refused(caller.post(f"/projects/{project.id}/query", json={"sql": "select 1"}), status)


def test_a_file_that_leads_elsewhere_is_not_followed(api: Api, project: Project):
    other = api.project()
    run = other.started(name="mine")
    logged(other, run, range(10))
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    until(lambda: archived(other, run), "the run's telemetry is in Parquet")
    assert rows(other, "select count(*) from metrics") == [[10]]
    theirs = next((api.home / "parquet" / f"ledger={project.id}").glob("run=*/metrics-*.parquet"))
    mine = next((api.home / "parquet" / f"ledger={other.id}").glob("run=*/metrics-*.parquet"))
    kept = mine.read_bytes()
    mine.unlink()
    mine.symlink_to(theirs)
    problem = refused(asked(other, "select count(*) from metrics"), 503)
    assert str(api.home) not in problem["detail"]
    mine.unlink()
    mine.write_bytes(kept)
    assert rows(other, "select count(*) from metrics") == [[10]]


@pytest.mark.parametrize(
    ("sql", "status", "kind", "limit"),
    [
        ("select range from range(50001)", 413, "too-large", 50_000),
        ("select repeat('x', 1000000) from range(3)", 413, "too-large", 2_000_000),
        ("select '" + "x" * 5_000 + "'", 413, "too-large", 5_000),
        ("select list(range) from range(1000000000)", 422, "query-too-hungry", 512 << 20),
    ],
)
def test_a_query_past_a_bound_is_stopped_and_names_it(project: Project, sql: str, status: int, kind: str, limit: int):
    problem = refused(asked(project, sql), status)
    assert problem["type"].endswith(f":{kind}")
    assert problem["limit"] == limit
    assert rows(project, "select 42") == [[42]]


def test_a_query_past_its_time_is_stopped_and_the_next_one_is_answered(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    environment = {"TACHOGRAPH_QUERY_SECONDS": "2"}
    with serving(postgres_server, nats_server, servers_home, environment=environment) as hasty:
        project = hasty.project()
        problem = refused(asked(project, "select count(*) from range(100000) a, range(10000000000) b"), 422)
        assert problem["type"].endswith(":query-too-slow")
        assert problem["limit"] == 2
        sql = "with recursive t as (select 1 n union all select n + 1 from t) select max(n) from t"
        assert refused(asked(project, sql), 422)["type"].rpartition(":")[2] in {"query-too-slow", "query-too-hungry"}
        until(lambda: asked(project, "select 42").status_code == 200, "another query is answered")


def test_the_example_reads_the_same_points_from_the_files(api: Api, project: Project):
    command = [sys.executable, "examples/analysis.py", str(api.home / "parquet"), project.id, "loss"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=SECONDS)
    sql = """
        select run_id, count(*), min(value) filter (where isfinite(value)), arg_max(value, (step, m.position))
        from metrics m join runs using (run_id) where name = 'done' group by run_id
    """
    ((run_id, points, best, last),) = rows(project, sql)
    assert f"{run_id}, {points}, {best}, {last}\n" in done.stdout
    assert "points of loss, steps 0 to " in done.stdout  # of the run under way too, once it is archived


def test_the_client_asks_sql(api: Api, project: Project):
    with Client(api.url, api.key) as client:
        answer = client.query(project.name, "select name from runs where status = ?", ["completed"])
    assert answer == {"columns": [{"name": "name", "type": "VARCHAR"}], "rows": [["done"]]}


def processes(api: Api) -> set[int]:
    """Return the query processes of the service."""
    parent = api.processes["service"].pid
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return {int(line) for line in found.stdout.split()}


def slow(api: Api, project: Project) -> socket.socket:
    """Send a query that takes long, and return its connection."""
    host, port = api.url.removeprefix("http://").split(":")
    body = json.dumps({"sql": "select count(*) from range(100000) a, range(10000000000) b"})
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"POST /api/v1/projects/{project.id}/query HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def test_queries_at_once_are_bounded_and_one_that_nobody_waits_for_is_killed(api: Api, project: Project):
    connections = [slow(api, project), slow(api, project)]
    until(lambda: len(processes(api)) == WAITING + 2, "both are running", QUERY_SECONDS / 2)
    problem = refused(asked(project, "select 1"), 429)
    assert problem["limit"] == 2
    assert problem["type"].endswith(":too-many-queries")
    assert rows(api.project(), "select 1") == [[1]]
    for connection in connections:
        connection.close()
    until(lambda: len(processes(api)) == WAITING, "the queries were killed", QUERY_SECONDS / 2)
    until(lambda: asked(project, "select 1").status_code == 200, "there is room again", QUERY_SECONDS / 2)
