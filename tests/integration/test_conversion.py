"""What other trackers left, made into archives of ours: the same runs as by the direct way, once, from anywhere."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tachograph
from events.ids import uuid7
from projections.storage import artifacts
from service.imports import inputs
from service.imports.conversion import converted
from service.imports.incoming import Input, Unreadable
from service.imports.inputs import Where
from service.imports.mlflow import MLflow
from service.imports.report import RunReport
from service.imports.tensorboard import TensorBoard
from stack.process import ROOT
from tests.api import Api, Json, accepted, serving
from tests.integration import archiving
from tests.integration.importing import bring, points
from tests.integration.mlflow_answers import recorded, source
from tests.integration.mlflow_answers import serving as mlflow_serving
from tests.integration.telemetry import World
from tests.integration.trackers import RUN, mlflow_store, neptune_export, tensorboard_logs
from tests.servers import NatsServer, PostgresServer

LEAVE: dict[str, Callable[[Path], Path]] = {
    "mlflow": mlflow_store,
    "neptune": neptune_export,
    "tensorboard": tensorboard_logs,
}


Opened = Callable[[], Input]


@pytest.fixture(params=[*LEAVE, "server"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Opens an input, again and again."""
    if request.param == "server":
        with mlflow_serving(recorded()) as server:
            yield lambda: source(server.url)
    else:
        left = LEAVE[request.param](tmp_path / request.param)
        yield lambda: inputs.opened(Where(str(left), step_multiplier=1_000), lambda *_: None).input


def archive(source: Input, path: Path) -> list[RunReport]:
    with path.open("wb") as file:
        return converted(source, file, lambda *_: None)


async def told(world: World, report: RunReport) -> dict[str, Any]:
    """Return all that a run's import brought, without what says when and how it came."""
    assert report.run_id is not None
    run = (await world.stored(report.run_id)).run
    saved = await artifacts.listed(
        world.pool, world.ledger_id, report.run_id, kind=None, prefix="", versions=True, after=None, limit=100
    )
    state = {name: getattr(run, name) for name in run.__struct_fields__ if name not in {"version", "imported_at"}}
    state.pop("status_since")
    if not run.imported or not run.imported.ended_at:
        state.pop("created_at"), state.pop("ended_at")
    return state | {
        "points": {name: list(map(repr, rows)) for name, rows in (await points(world, report.run_id)).items()},
        "counts": (report.points, report.lines, report.artifacts, sorted(report.left_out)),
        "files": {one.name: (one.sha256, one.bytes, one.media_type) for one in saved},
    }


async def test_a_run_by_an_archive_is_the_run_of_the_direct_way(
    world: World, elsewhere: World, opened: Opened, tmp_path: Path
) -> None:
    path, again = tmp_path / "a.zip", tmp_path / "b.zip"
    read = archive(opened(), path)
    archive(opened(), again)
    assert path.read_bytes() == again.read_bytes(), "an upload that was cut is known by its bytes"
    direct = await bring(elsewhere, opened())
    assert [(one.original, one.why) for one in read if one.outcome == "refused"] == [
        (one.original, one.why) for one in direct if one.outcome == "refused"
    ]
    by_archive = {one.original: one for one in await archiving.bring(world, path)}
    assert len(by_archive) > 1
    for one in direct:
        if one.outcome != "refused":
            assert await told(world, by_archive[one.original]) == await told(elsewhere, one)
    assert {one.outcome for one in await bring(world, opened())} <= {"already there", "refused"}
    assert {one.outcome for one in await archiving.bring(elsewhere, path)} == {"already there"}


async def test_the_direct_way_goes_on_with_what_an_archive_began(world: World, opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    archive(opened(), path)

    def stop(_: int) -> None:
        raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        await archiving.bring(world, path, stop)
    reports = await bring(world, opened())
    assert sum(one.outcome == "continued" for one in reports) == 1


def changed(data: bytes, change: tuple[bytes, bytes]) -> bytes:
    """Return an archive with something else in its manifest."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(*change) if name == "manifest.json" else content)
    return made.getvalue()


async def test_an_archive_that_says_to_be_of_another_tracker_is_held_to_it(world: World, tmp_path: Path) -> None:
    path, strange = tmp_path / "a.zip", tmp_path / "strange.zip"
    archive(MLflow(mlflow_store(tmp_path / "mlruns")), path)
    strange.write_bytes(changed(path.read_bytes(), (b'"system":"mlflow","runs"', b'"system":"neptune","runs"')))
    reports = await archiving.bring(world, strange)
    assert {one.why for one in reports} == {"an archive of runs of neptune holds nothing of a run but its import"}
    strange.write_bytes(changed(path.read_bytes(), (b'"system":"mlflow","runs"', b'"system":"paper","runs"')))
    with pytest.raises(Unreadable, match="there is no import from 'paper'"):
        archiving.opened(strange)


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    with serving(postgres_server, nats_server, servers_home) as api:
        yield api


def command(api: Api, *arguments: object, key: str | None = None) -> tuple[int, str, str]:
    """Run an import that has a key, and no database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TACHOGRAPH_")}
    done = subprocess.run(
        [sys.executable, "-m", "service", "import", *map(str, arguments), "--url", api.url],
        cwd=ROOT, env={**inherited, "TACHOGRAPH_API_KEY": key or api.key}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_command_brings_another_trackers_runs_over_http(api: Api, tmp_path: Path) -> None:
    name, store = f"new-{uuid7()}", mlflow_store(tmp_path / "mlruns")
    status, said, told_off = command(api, store)
    assert (status, said, told_off) == (2, "", "tachograph: give --project: this input names none\n")
    status, _, told_off = command(api, store, "--project", name, key="tg_wrong")
    assert (status, len(told_off.splitlines())) == (2, 1)
    (store / "0" / "broken").mkdir()
    (store / "0" / "broken" / "metrics").mkdir()
    (store / "0" / "broken" / "meta.yaml").write_text("status: 3\n")
    (store / "0" / RUN / "metrics" / "odd\x7f").write_text("1700000000000 1 1\n")
    status, said, _ = command(api, store, "--project", name, "--create", "--json")
    report: Json = json.loads(said)
    assert (status, report["report"]["counts"]) == (1, {"new": 2, "refused": 1})
    assert [one["original"] for one in report["report"]["refused"]] == ["broken"]
    assert report["left_out"] == {
        RUN: ["inputs: datasets and models that it read, 1", "metric 'odd\\x7f': its name cannot be taken, 1 points"]
    }
    run = accepted(api.client.get(f"/runs/{RUN}"))
    imported = run["imported"]
    assert (imported["origin"]["system"], imported["finished"], run["external_id"]) == ("mlflow", True, RUN)
    events = accepted(api.client.get(f"/runs/{RUN}/events"))["events"]
    finished = next(one["data"] for one in events if one["type"].endswith("run.import_finished"))
    assert finished["left_out"] == report["left_out"][RUN]
    status, said, _ = command(api, store, "--project", name)
    assert status == 1
    assert said.splitlines()[-1].endswith(": 0 new, 0 continued, 2 already there, 1 refused")
    assert "left out" not in said
    status, said, _ = command(api, store / "0" / "broken", "--project", name)
    assert status == 1
    assert said.splitlines()[-1].endswith(": 0 new, 0 continued, 0 already there, 1 refused")
    assert len(accepted(api.client.get(f"/projects/{name}/imports"))["items"]) == 2, "there was nothing to be sent"


def test_a_client_sends_an_archive_that_was_made_before(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "logs.zip"
    archive(TensorBoard(tensorboard_logs(tmp_path / "logs")), path)
    with tachograph.Client(api.url, api.key, retry_seconds=60) as client:
        project = client.ensure_project(f"sent-{uuid7()}")["id"]
        assert client.import_archive(project, path)["report"]["counts"] == {"new": 3}
        assert client.import_archive(project, path)["report"]["counts"] == {"already there": 3}
