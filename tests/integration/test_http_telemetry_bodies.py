"""Telemetry in every format and encoding, at its limits, from several sources at once, and under overload."""

import gzip
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tests.api import Api, Project, accepted, refused, serving, until
from tests.servers import NatsServer, PostgresServer
from tests.tables import ARROW, PARQUET, written

MEDIA = ["application/json", "application/msgpack", ARROW, PARQUET]
MAX_BYTES = 8 << 20
MAX_POINTS = 100_000
POINT = {"a": {"step": [1], "value": [1.0]}}


def encoded(series: dict[str, Any], media: str, seq: int = 1) -> tuple[bytes, dict[str, Any]]:
    """Return a body and the query that goes with it."""
    if media == "application/json":
        return msgspec.json.encode({"epoch": 1, "seq": seq, "series": series}), {}
    if media == "application/msgpack":
        plain = {
            name: {**columns, "value": [float(value) for value in columns["value"]]} for name, columns in series.items()
        }
        return msgspec.msgpack.encode({"epoch": 1, "seq": seq, "series": plain}), {}
    names = [name for name, columns in series.items() for _ in columns["step"]]
    table = pa.table(
        {
            "metric": names,
            "step": [step for columns in series.values() for step in columns["step"]],
            "value": [float(value) for columns in series.values() for value in columns["value"]],
        }
    )
    return written(table, media), {"epoch": 1, "seq": seq}


def packed(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    return gzip.compress(body) if encoding == "gzip" else bytes(pa.compress(body, codec="zstd", asbytes=True))


def send(
    api: Api, run: dict[str, Any], body: bytes, media: str, query: dict[str, Any], encoding: str | None = None
) -> httpx.Response:
    headers = {"content-type": media} | ({} if encoding is None else {"content-encoding": encoding})
    return api.client.post(f"/runs/{run['id']}/metrics", content=body, headers=headers, params=query)


def logged(project: Project, run: dict[str, Any]) -> list[Any]:
    return [event["data"]["series"] for event in project.events(run) if event["type"] == "run.metrics_logged"]


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_every_format_and_encoding_says_the_same_exactly(api: Api, project: Project, media: str, encoding: str):
    run = project.started()
    series = {
        "🦊/λoss": {"step": [5, 3, 3, 9], "value": ["NaN", 0.1, "-Infinity", -0.0]},
        "a b": {"step": [-(1 << 63), (1 << 63) - 1], "value": [5e-324, "Infinity"]},
    }
    body, query = encoded(series, media)
    first = send(api, run, packed(body, encoding), media, query, encoding)
    assert accepted(first, 202)["accepted"] == 6
    stored = logged(project, run)
    assert [
        {name: {"step": columns["step"], "value": columns["value"]} for name, columns in one.items()} for one in stored
    ] == [series]
    assert send(api, run, packed(body, encoding), media, query, encoding).content == first.content
    again, query = encoded(series, "application/json")
    assert send(api, run, again, "application/json", query).content == first.content, "a repetition in another format"
    assert logged(project, run) == stored


@pytest.mark.parametrize("media", ["application/json", "application/msgpack"])
def test_an_integer_is_exact_or_refused(api: Api, project: Project, media: str):
    encode = msgspec.json.encode if media == "application/json" else msgspec.msgpack.encode
    run = project.started()
    before = project.head()
    for number in ((1 << 53) + 1, -(1 << 53) - 1, (1 << 63) - 1):
        series = {"a": {"step": [1, 2], "value": [1e300, number]}}
        problem = refused(send(api, run, encode({"epoch": 1, "seq": 1, "series": series}), media, {}), 422)
        assert problem["errors"][0]["path"] == "$.series['a'].value"
    assert project.head() == before
    exact = {"a": {"step": [1, 2, 3, 4], "value": [1 << 53, -(1 << 62), 1e300, 9007199254740994]}}
    accepted(send(api, run, encode({"epoch": 1, "seq": 1, "series": exact}), media, {}), 202)
    assert logged(project, run)[0]["a"]["value"] == [float(number) for number in exact["a"]["value"]]


@pytest.mark.parametrize("media", MEDIA)
def test_a_body_in_any_format_has_at_most_a_hundred_thousand_points(api: Api, project: Project, media: str):
    run = project.started()
    values = np.random.default_rng(0).standard_normal(MAX_POINTS + 1).astype(np.float32).tolist()
    steps = list(range(MAX_POINTS + 1))
    before = project.head()
    body, query = encoded({"a": {"step": steps, "value": values}}, media)
    assert refused(send(api, run, body, media, query), 422)["limit"] == MAX_POINTS
    assert project.head() == before
    body, query = encoded({"a": {"step": steps[:-1], "value": values[:-1]}}, media)
    assert accepted(send(api, run, body, media, query), 202)["accepted"] == MAX_POINTS


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_holds_at_most_eight_mebibytes_however_it_is_packed(api: Api, project: Project, encoding: str):
    run = project.started()
    body, query = encoded(POINT, "application/json")
    before = project.head()
    for size in (MAX_BYTES + 1, 64 * MAX_BYTES):
        bomb = packed(body + b" " * (size - len(body)), encoding)
        assert len(bomb) < MAX_BYTES
        problem = refused(send(api, run, bomb, "application/json", query, encoding), 413)
        assert problem["limit"] == MAX_BYTES
    for cut in (packed(body, encoding)[:-1], b"", body):
        assert encoding in refused(send(api, run, cut, "application/json", query, encoding), 400)["detail"]
    assert project.head() == before
    whole = packed(body + b" " * (MAX_BYTES - len(body)), encoding)
    accepted(send(api, run, whole, "application/json", query, encoding), 202)


def test_other_formats_and_encodings_are_refused_and_the_known_ones_named(api: Api, project: Project):
    run = project.started()
    problem = send(api, run, b"a,1", "text/csv", {})
    assert "'text/csv'" in refused(problem, 415)["detail"]
    assert problem.headers["accept-post"].split(", ") == [
        "application/json", "application/msgpack", "application/x-msgpack", "application/vnd.msgpack", ARROW, PARQUET
    ]  # fmt: skip
    body, _ = encoded(POINT, "application/json")
    accepted(send(api, run, body, "application/x-www-form-urlencoded", {}), 202)  # so curl calls it by itself
    problem = send(api, run, body, "application/json", {}, "br")
    assert "'br'" in refused(problem, 415)["detail"]
    assert problem.headers["accept-encoding"] == "gzip, zstd"


@pytest.mark.parametrize("media", [ARROW, PARQUET])
def test_a_table_that_does_not_fit_is_refused_by_its_column(api: Api, project: Project, media: str):
    run = project.started()
    body, query = encoded({"a": {"step": [1], "value": [1.0]}, "b\n": {"step": [1], "value": [1.0]}}, media)
    assert refused(send(api, run, body, media, query), 422)["errors"][0]["path"] == "metric"
    body, _ = encoded(POINT, media)
    assert "seq" in refused(send(api, run, body, media, {"epoch": 1}), 422)["detail"]
    refused(send(api, run, body[:-1], media, query), 400)
    assert logged(project, run) == []


def lines_as(media: str, lines: list[dict[str, Any]], seq: int = 1) -> tuple[bytes, dict[str, Any]]:
    """Return a body of log lines and the query that goes with it."""
    if media in {"application/json", "application/msgpack"}:
        encode = msgspec.json.encode if media == "application/json" else msgspec.msgpack.encode
        return encode({"epoch": 1, "seq": seq, "lines": lines}), {}
    return written(pa.Table.from_pylist(lines), media), {"epoch": 1, "seq": seq}


def send_lines(
    api: Api, run: dict[str, Any], body: bytes, media: str, query: dict[str, Any], encoding: str | None = None
) -> httpx.Response:
    headers = {"content-type": media} | ({} if encoding is None else {"content-encoding": encoding})
    return api.client.post(f"/runs/{run['id']}/logs", content=body, headers=headers, params=query)


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_log_lines_in_every_format_and_encoding_are_the_same(api: Api, project: Project, media: str, encoding: str):
    run = project.started()
    lines = [
        {"text": "Zoë 🦊", "time_us": 5, "stream": "stderr"},
        {"text": "", "time_us": 3, "stream": "stdout"},
        {"text": "a\tb", "time_us": 3, "stream": "log"},
    ]
    body, query = lines_as(media, lines)
    first = send_lines(api, run, packed(body, encoding), media, query, encoding)
    assert accepted(first, 202)["accepted"] == 3
    for again in MEDIA:  # a repetition, in whichever format
        body, query = lines_as(again, lines)
        assert send_lines(api, run, body, again, query).content == first.content
    kept = accepted(api.client.get(f"/runs/{run['id']}/logs"))["lines"]
    assert [{name: one[name] for name in ("text", "time_us", "stream")} for one in kept] == lines
    body, query = lines_as(media, lines[:1])
    refused(send_lines(api, run, body, media, query), 409)


@pytest.mark.parametrize("media", [ARROW, PARQUET])
def test_a_table_of_lines_that_does_not_fit_is_refused_whole(api: Api, project: Project, media: str):
    run = project.started()
    before = project.head()
    for lines, path in (
        ([{"text": "a", "stream": "log"}, {"text": "b", "stream": "stdin"}], "stream"),
        ([{"text": "a"}, {"text": None}], "text"),
        ([{"line": "a"}], "line"),
    ):
        body, query = lines_as(media, lines)
        assert refused(send_lines(api, run, body, media, query), 422)["errors"][0]["path"] == path
    body, query = lines_as(media, [{"text": "a"}])
    assert "seq" in refused(send_lines(api, run, body, media, {"epoch": 1}), 422)["detail"]
    assert "stage" in refused(send_lines(api, run, body, media, query | {"stage": "x"}), 422)["detail"]
    refused(send_lines(api, run, body[:-1], media, query), 400)
    assert send_lines(api, run, body, "text/plain", query).headers["accept-post"].endswith(f"{ARROW}, {PARQUET}")
    assert project.head() == before


def test_several_sources_log_to_one_run_at_once_and_each_batch_once(api: Api, project: Project):
    run = project.started()
    sources = [f"rank-{rank}" for rank in range(4)] + ["worker"]
    batches = 25

    def log(source: str) -> list[int]:
        positions = []
        with api.as_caller(api.key) as client:
            for seq in range(1, batches + 1):
                series = {source: {"step": [seq, 0], "value": [float(seq), -1.0], "time_us": [seq, seq]}}
                body = {"epoch": 1, "source": source, "seq": seq, "series": series}
                answers = [client.post(f"/runs/{run['id']}/metrics", json=body) for _ in range(2)]
                assert answers[0].content == answers[1].content
                positions.append(accepted(answers[0], 202)["position"])
        return positions

    with ThreadPoolExecutor(2 * len(sources)) as threads:  # every source twice: two processes that both believe
        told = list(threads.map(log, sources * 2))
    assert told[: len(sources)] == told[len(sources) :], "the same batch is at the same position, whoever sent it"
    stored = [event for event in project.events(run) if event["type"] == "run.metrics_logged"]
    keys = sorted((event["sender"], event["seq"]) for event in stored)
    assert keys == sorted((source, seq) for source in sources for seq in range(1, batches + 1))
    for source in sources:
        of_source = [event["data"]["series"][source]["step"] for event in stored if event["sender"] == source]
        assert of_source == [[seq, 0] for seq in range(1, batches + 1)]
    assert project.verified()["verified"]


def test_batches_are_taken_while_nats_is_down(
    postgres_server: PostgresServer, own_nats: NatsServer, servers_home: Path
):
    with serving(postgres_server, own_nats, servers_home, roles=["projector"]) as api:
        project = api.project()
        run = project.started()
        accepted(project.log(run, 1, POINT), 202)
        own_nats.kill()
        for seq in range(2, 12):
            accepted(project.log(run, seq, POINT), 202)
        accepted(project.write(run, 12, "nobody hears this yet"), 202)

        def counted() -> bool:
            metrics = accepted(api.client.get(f"/runs/{run['id']}/metrics"))["metrics"]
            return [metric["count"] for metric in metrics] == [11]

        until(counted, "the metrics are summarised without NATS")
        assert accepted(api.client.get(f"/runs/{run['id']}"))["status"] == "running"


def test_under_overload_a_batch_is_refused_at_once_and_taken_later(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    limits = {"TACHOGRAPH_INGEST_BYTES_UNDER_WAY": str(1 << 20)}
    with serving(postgres_server, nats_server, servers_home, environment=limits) as api:
        project = api.project()
        run = project.started()
        with socket.create_connection((urlsplit(api.url).hostname, urlsplit(api.url).port)) as slow:
            head = (
                f"POST /api/v1/runs/{run['id']}/metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {1 << 20}\r\nExpect: 100-continue\r\n\r\n"
            )
            slow.sendall(head.encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 100 "), "it is let in, and its body waited for"
            answer = project.log(run, 1, POINT)
            assert refused(answer, 429)["limit"] == 1 << 20
            assert int(answer.headers["retry-after"]) >= 1
            accepted(api.client.get(f"/runs/{run['id']}")), "what is no telemetry goes on"
        until(lambda: project.log(run, 2, POINT).status_code == 202, "the slow client is gone")


def test_a_key_past_its_rate_is_told_when_to_come_back(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    limits = {"TACHOGRAPH_INGEST_REQUESTS": "3"}
    with serving(postgres_server, nats_server, servers_home, environment=limits) as api:
        project = api.project()
        run = project.started()
        for left in (2, 1, 0):
            answer = project.log(run, left + 1, POINT)
            accepted(answer, 202)
            assert answer.headers["ratelimit-policy"].startswith('"requests";q=3;w=10')
            assert answer.headers["ratelimit"].startswith(f'"requests";r={left};')
        answer = project.log(run, 4, POINT)
        problem = refused(answer, 429)
        assert (problem["limit"], problem["violated-policies"]) == (3, ["requests"])
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert answer.headers["ratelimit"].startswith('"requests";r=0;')
        assert len(logged(project, run)) == 3
