"""A running MLflow server, brought here: what a real one answered is played back, and where it is installed it runs."""

import asyncio
import json
import struct
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.mlflow import PROGRAM, served
from events.types import Cause, Status
from projections import runs
from projections.storage import artifacts
from service.imports.incoming import Unreadable
from service.imports.inputs import Where, opened
from service.imports.mlflow_client import Client, Unreachable
from service.imports.mlflow_server import MLflowServer
from service.imports.report import RunReport
from tests.integration.archiving import service
from tests.integration.importing import bring, points
from tests.integration.mlflow_answers import MS, Answer, asked, recorded, seed, serving, source
from tests.integration.telemetry import World
from tests.servers import Database


@pytest.fixture(params=["recorded", pytest.param("real", marks=pytest.mark.slow)])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "recorded":
        with serving(recorded()) as server:
            yield server.url
        return
    if not PROGRAM.exists():
        pytest.skip("MLflow is not installed; `make .venv-mlflow/.locked` does it")
    async with served(f"sqlite:///{tmp_path}/mlflow.db", "--workers", "1") as peer:
        await asyncio.to_thread(seed, peer.url)
        yield peer.url


def by_name(reports: list[RunReport]) -> dict[str, RunReport]:
    return {report.name: report for report in reports}


async def test_runs_come_with_ids_times_numbers_and_files(world: World, url: str) -> None:
    told: list[tuple[str, int]] = []
    server = await asyncio.to_thread(source, url)
    server._progress = lambda what, count: told.append((what, count))
    assert server.expected == 4
    reports = by_name(await bring(world, server))
    assert [reports[name].outcome for name in ("upset-loon", "killed", "failed")] == ["new"] * 3
    assert len(reports) == 4
    running = next(one for one in reports.values() if one.outcome == "refused")
    assert running.why.startswith("'")
    assert "' is RUNNING in MLflow; import it when it has ended, or end it there" in running.why
    assert told[-1] == ("read", 6)

    report = reports["upset-loon"]
    assert report.run_id is not None
    assert report.run_id.hex == report.original
    run = (await world.stored(report.run_id)).run
    assert (run.name, run.external_id, run.status, run.notes) == (
        "upset-loon", report.original, Status.COMPLETED, "a note",
    )  # fmt: skip
    assert run.config == {"lr": 0.1, "layers": 3, "opt/name": "adam"}
    assert run.tags == ("mlflow", "team=x")
    assert (run.summary["mlflow"]["experiment"], run.summary["mlflow"]["tags"]["team"]) == ("Default", "x")
    assert run.started_at is not None
    assert run.ended_at is not None
    assert [at.timestamp() * 1_000 for at in (run.started_at, run.ended_at)] == [MS, MS + 5_000]
    found = await points(world, report.run_id)
    assert [one[:2] for one in found["loss"]] == [
        (0, MS * 1_000), (1, MS * 1_000 + 1_000), (1, MS * 1_000 + 1_000), (-3, MS * 1_000 + 3_000),
        (2**53 + 1, MS * 1_000 + 4_000),
    ]  # fmt: skip
    values = [float("nan"), 0.1 + 0.2, 0.5, 0.1, 1e-320]
    assert struct.pack("<5d", *(one[2] for one in found["loss"])) == struct.pack("<5d", *values)
    assert found["loss/a"] == [(7, MS * 1_000, 1.5)]
    assert (report.points, report.artifacts, report.left_out) == (6, 2, [])
    for name, content in {"model/weights.bin": b"w" * 10, "notes ü.txt": b"hello"}.items():
        saved = await artifacts.by_name(world.pool, world.ledger_id, report.run_id, name)
        assert saved is not None
        body = [part async for part in artifacts.content(world.ledger, world.objects, saved, 0, saved.bytes - 1)]
        assert b"".join(body) == content
    ended = {name: (await world.stored(reports[name].run_id)).run for name in ("killed", "failed")}  # type: ignore[arg-type]
    assert (ended["killed"].status, ended["killed"].cause) == (Status.KILLED, Cause.KILLED_BY_USER)
    assert (ended["failed"].status, ended["failed"].cause) == (Status.FAILED, Cause.EXCEPTION)

    head = await world.ledger.head(world.ledger_id)
    again = await bring(world, await asyncio.to_thread(source, url))
    assert sorted(one.outcome for one in again) == ["already there"] * 3 + ["refused"]
    assert await world.ledger.head(world.ledger_id) == head

    chosen = await asyncio.to_thread(source, url, "vision")
    assert [one.name for one in await bring(world, chosen)] == ["failed"]


async def test_the_command_takes_the_address_of_a_server(world: World, database: Database, tmp_path: Path) -> None:
    def run(url: str) -> subprocess.CompletedProcess[str]:
        project = str(world.ledger_id)
        return service(
            world, database, tmp_path, "import", url, "--experiment", "vision", "--project", project, "--json"
        )

    with serving(recorded()) as server:
        done = await asyncio.to_thread(run, server.url)
        again = await asyncio.to_thread(run, server.url)
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    report = json.loads(done.stdout)
    assert (report["system"], report["source"]) == ("mlflow", server.url)
    assert [(one["name"], one["outcome"]) for one in report["runs"]] == [("failed", "new")]
    assert [one["outcome"] for one in json.loads(again.stdout)["runs"]] == ["already there"]
    wrong = await asyncio.to_thread(run, server.url + "?a=b")
    assert (wrong.returncode, "is no address of a server" in wrong.stderr) == (2, True)


def test_an_address_that_is_none_and_an_experiment_that_is_missing_are_said() -> None:
    with pytest.raises(Unreadable, match="MLFLOW_TRACKING_USERNAME"):
        opened(Where("http://ada:secret@localhost"), lambda *_: None)
    with pytest.raises(Unreadable, match="no address"):
        opened(Where("http://"), lambda *_: None)
    with pytest.raises(Unreadable, match="only MLflow"):
        opened(Where("http://localhost", "neptune"), lambda *_: None)
    with serving(recorded()) as server, pytest.raises(Unreadable, match="no active experiment 'sound'"):
        source(server.url, "sound")


QUESTION = b'{"max_results": 1000, "view_type": "ACTIVE_ONLY"}'


def changed(part: str, change: Any) -> dict[str, Answer]:
    """Return the answers with those changed whose request has this in it."""
    answers = recorded()
    found = {key: answer for key, answer in answers.items() if part in key}
    assert found
    return answers | {key: change(answer) for key, answer in found.items()}


def document(**fields: Any) -> Any:
    return lambda answer: replace(answer, body=json.dumps({**json.loads(answer.body), **fields}).encode())


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("runs/get", document(run={"info": {"run_id": "another", "status": "FINISHED"}}), "gives run 'another'"),
        ("runs/get", document(run={"info": {}}), "run_id"),
        ("runs/get", lambda _: Answer(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}'), "RESOURCE_DOES_NOT_EXIST"),
        ("get-history", lambda _: Answer(200, b"<html>"), "answers what MLflow does not"),
        ("get-history", document(metrics=[{"value": "much", "timestamp": MS}]), "value"),
        ("get-history", document(metrics=[{"value": 1, "timestamp": MS, "step": 1 << 64}]), "step"),
        ("get-history", document(metrics=[{"value": 1, "timestamp": 10**15}]), "years 1 to 9999"),
        ("get-history", document(next_page_token="again"), "404"),
    ],
)
async def test_a_bad_run_is_refused_and_leaves_nothing(world: World, part: str, change: Any, said: str) -> None:
    with serving(changed(part, change)) as server:
        reports = await bring(world, await asyncio.to_thread(source, server.url))
    refused = [one for one in reports if said in one.why]
    assert refused
    for report in refused:
        assert report.outcome == "refused"
        assert await runs.by_external_id(world.pool, world.ledger_id, report.original) is None


async def test_a_page_that_comes_again_ends_the_list(world: World) -> None:
    answers = recorded()
    for key, answer in recorded().items():
        if "get-history" in key:
            again = document(next_page_token="again")(answer)
            answers[key] = again
            answers["GET " + key.split("?")[0].removeprefix("GET ") + "?" + with_token(key) + " "] = again
    with serving(answers) as server:
        reports = await bring(world, await asyncio.to_thread(source, server.url))
    assert any("the same page" in one.why for one in reports)


def with_token(key: str) -> str:
    query = [pair for pair in key.split("?")[1].strip().split("&") if not pair.startswith("page_token")]
    return "&".join(sorted([*query, "page_token=again"]))


async def test_files_that_the_server_does_not_pass_on_are_left_out_and_said(world: World) -> None:
    answers = changed(
        "runs/get", lambda answer: replace(answer, body=answer.body.replace(b"mlflow-artifacts:/", b"s3://bucket/"))
    )
    with serving(answers) as server:
        report = by_name(await bring(world, await asyncio.to_thread(source, server.url)))["upset-loon"]
    assert (report.outcome, report.artifacts) == ("new", 0)
    assert "s3://bucket/" in report.left_out[0]
    assert "does not pass them on" in report.left_out[0]


async def test_a_file_that_is_cut_is_left_out_and_said(world: World) -> None:
    answers = changed("weights.bin", lambda answer: replace(answer, body=answer.body[:4]))
    with serving(answers) as server:
        report = by_name(await bring(world, await asyncio.to_thread(source, server.url)))["upset-loon"]
    assert (report.outcome, report.artifacts) == ("new", 1)
    assert report.left_out[0].startswith("artifact 'model/weights.bin'")


async def test_a_server_that_is_away_ends_the_import_and_the_same_again_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.imports.mlflow_client.BACKOFF_SECONDS", 0)
    whole = recorded()
    with serving(changed("weights.bin", lambda _: Answer(503, b"later"))) as server:
        with pytest.raises(Unreachable, match="answers 503: later"):
            await bring(world, await asyncio.to_thread(source, server.url))
        assert sum("weights.bin" in key for key in server.asked) == 7
        server.answers = whole
        reports = by_name(await bring(world, await asyncio.to_thread(source, server.url)))
    assert (reports["upset-loon"].outcome, reports["upset-loon"].artifacts) == ("continued", 2)
    with pytest.raises(Unreachable) as refused:
        await asyncio.to_thread(source, server.url)
    assert str(refused.value) == (
        f"MLflow is not reached at {server.url}: Connection refused; check host and port, and that the server runs"
    )


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YWRhOnB3"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "Bearer t"),
    ],
)
def test_credentials_come_from_mlflows_own_variables(environment: dict[str, str], sent: str | None) -> None:
    with serving({asked("POST", "/api/2.0/mlflow/experiments/search", QUESTION): Answer(401, b"no")}) as server:
        with pytest.raises(Unreachable, match="answers 401: no; set MLFLOW_TRACKING_USERNAME and"):
            MLflowServer(Client(server.url, environment))
        assert server.credentials == [sent]
