"""MLflow's file store, laid out as its documentation says, brought here."""

import struct
from pathlib import Path
from typing import Any

import pytest

from events.types import Cause, Status
from projections import runs
from projections.storage import artifacts
from service.imports.incoming import Unreadable
from service.imports.inputs import Where, opened
from service.imports.mlflow import MLflow
from service.imports.mlflow_run import as_number
from tests.integration.importing import bring, points
from tests.integration.telemetry import World
from tests.integration.trackers import KILLED, MS, RUN, mlflow_store, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return mlflow_store(tmp_path / "mlruns")


async def test_a_store_comes_with_ids_times_and_numbers(world: World, store: Path) -> None:
    source = opened(Where(str(store)), lambda *_: None).input
    reports = {one.original: one for one in await bring(world, source)}
    assert {one.outcome for one in reports.values()} == {"new"}
    report = reports[RUN]
    assert report.run_id is not None
    assert report.run_id.hex == RUN
    run = (await world.stored(report.run_id)).run
    assert (run.name, run.external_id, run.status, run.notes) == ("upset-loon", RUN, Status.COMPLETED, "a note")
    assert run.config == {"lr": 0.1, "layers": 3, "note": "a\nb", "exact": "1e-3", "opt/name": "adam"}
    assert run.tags == ("mlflow", "team=x")
    assert run.summary["mlflow"]["experiment"] == "Default"
    assert run.summary["mlflow"]["tags"]["mlflow.user"] == "ada"
    assert run.started_at is not None
    assert run.ended_at is not None
    assert [at.timestamp() * 1_000 for at in (run.started_at, run.ended_at)] == [MS, MS + 5_000]
    found = await points(world, report.run_id)
    assert [one[:2] for one in found["loss"]] == [
        (0, MS * 1_000), (1, MS * 1_000 + 1_000), (2, MS * 1_000 + 2_000), (-3, MS * 1_000 + 3_000),
        (2**53 + 1, MS * 1_000 + 4_000),
    ]  # fmt: skip
    expected = [0.1, float("nan"), float("inf"), float("-inf"), 1e-320]
    assert struct.pack("<5d", *(one[2] for one in found["loss"])) == struct.pack("<5d", *expected)
    assert found["val/acc"] == [(7, MS * 1_000, 0.1 + 0.2)]
    saved = await artifacts.by_name(world.pool, world.ledger_id, report.run_id, "model/weights.bin")
    assert saved is not None
    body = [part async for part in artifacts.content(world.ledger, world.objects, saved, 0, saved.bytes - 1)]
    assert b"".join(body) == b"w" * 10
    assert report.artifacts == 2
    assert report.left_out == ["inputs: datasets and models that it read, 1"]
    assert await artifacts.by_name(world.pool, world.ledger_id, report.run_id, "link") is None
    killed = await runs.by_external_id(world.pool, world.ledger_id, KILLED)
    assert killed is not None
    assert (killed.run.status, killed.run.cause) == (Status.KILLED, Cause.KILLED_BY_USER)

    head = await world.ledger.head(world.ledger_id)
    assert {one.outcome for one in await bring(world, MLflow(store))} == {"already there"}
    assert await world.ledger.head(world.ledger_id) == head


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: write(run / "metrics" / "loss", "yesterday 0.1 0\n"), "metrics/loss, line 1"),
        (lambda run: write(run / "metrics" / "loss", f"{MS} 0.1 0\n{MS} x\n"), "line 2"),
        (lambda run: write(run / "metrics" / "loss", f"{MS} 0.1 {1 << 64}\n"), "line 1"),
        (lambda run: write(run / "metrics" / "loss", f"{10**15} 0.1 0\n"), "line 1"),
        (lambda run: write(run / "meta.yaml", f"run_id: '{RUN}'\nstatus: 3\nend_time: {10**15}\n"), "years 1 to 9999"),
        (lambda run: write(run / "params" / "big", "x" * 70_000), "'big' has over 65536 bytes"),
        (lambda run: write(run / "meta.yaml", "run_id: [\n"), "meta.yaml"),
        (lambda run: write(run / "meta.yaml", "status: 3\n"), "run_id"),
        (lambda run: write(run / "meta.yaml", f"run_id: '{RUN}'\nstatus: 1\n"), "it is RUNNING in MLflow"),
        (
            lambda run: write(run / "meta.yaml", f"run_id: '{RUN}'\nstatus: 3\nlifecycle_stage: deleted\n"),
            "it is deleted",
        ),
        (lambda run: (run / "params" / "bad").write_bytes(b"\xff"), "utf-8"),
    ],
)
async def test_a_bad_run_is_refused_and_leaves_nothing(world: World, store: Path, change: Any, said: str) -> None:
    change(store / "0" / RUN)
    reports = await bring(world, MLflow(store))
    refused = next(one for one in reports if one.original == RUN)
    assert refused.outcome == "refused"
    assert said in refused.why or said == "meta.yaml"
    assert await runs.by_external_id(world.pool, world.ledger_id, RUN) is None
    assert [one.outcome for one in reports if one.original == KILLED] == ["new"]


def test_an_empty_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="has no runs"):
        MLflow(tmp_path)
    with pytest.raises(Unreadable, match="looks like nothing"):
        opened(Where(str(tmp_path)), lambda *_: None)


@pytest.mark.parametrize("text", ["1e-3", "007", "nan", "True", "1_000", " 1", str(1 << 64), ""])
def test_a_parameter_that_a_number_would_not_say_stays_a_text(text: str) -> None:
    assert as_number(text) == text
