"""What neptune-exporter writes, laid out as its README says, brought here."""

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from events import codec
from events.types import Status
from projections import runs
from projections.storage import artifacts
from service.imports.incoming import Unreadable
from service.imports.inputs import Where, opened
from service.imports.neptune import Neptune
from tests.integration.importing import bring, points
from tests.integration.telemetry import World

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "project_id": pa.string(),
        "run_id": pa.string(),
        "attribute_path": pa.string(),
        "attribute_type": pa.string(),
        "step": pa.decimal128(18, 6),
        "timestamp": pa.timestamp("ms", "UTC"),
        "int_value": pa.int64(),
        "float_value": pa.float64(),
        "string_value": pa.string(),
        "bool_value": pa.bool_(),
        "datetime_value": pa.timestamp("ms", "UTC"),
        "string_set_value": pa.list_(pa.string()),
        "file_value": pa.struct({"path": pa.string()}),
        "histogram_value": pa.struct(
            {"type": pa.string(), "edges": pa.list_(pa.float64()), "values": pa.list_(pa.float64())}
        ),
    }
)


def one(path: str, kind: str, value: Any, column: str | None = None, **more: Any) -> dict[str, Any]:
    return {"attribute_path": path, "attribute_type": kind, f"{column or kind}_value": value, **more}


def series(path: str, step: str, value: float, seconds: int = 0) -> dict[str, Any]:
    return one(path, "float_series", value, "float", step=Decimal(step), timestamp=AT + timedelta(seconds=seconds))


def write(root: Path, run_id: str, *parts: list[dict[str, Any]]) -> None:
    directory = root / "data" / "org_project-0a1b"
    directory.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(parts):
        every = [{"project_id": "org/project", "run_id": run_id, **row} for row in rows]
        pq.write_table(pa.Table.from_pylist(every, SCHEMA), directory / f"{run_id}_part_{number}.parquet")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    root = tmp_path / "exports"
    (root / "files" / "org_project-0a1b").mkdir(parents=True)
    (root / "files" / "org_project-0a1b" / "w.bin").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    first = [
        one("sys/name", "string", "my experiment"),
        one("sys/creation_time", "datetime", AT - timedelta(hours=1)),
        one("sys/tags", "string_set", ["b", "a"]),
        one("sys/failed", "bool", True),
        one("params/lr", "float", 0.1),
        one("params/n", "int", 2**53 + 1),
        one("params/when", "datetime", AT),
        one("model", "file", {"path": "org_project-0a1b/w.bin"}),
        one("evil", "file", {"path": "../secret"}),
        series("train/loss", "0", 0.1),
        series("train/loss", "1", float("nan"), 1),
    ]
    second = [
        series("train/loss", "2", float("inf"), 2),
        one("monitoring/0/stdout", "string_series", "hello", "string", step=Decimal(0), timestamp=AT),
        one("notes", "string_series", "free", "string", step=Decimal(0), timestamp=AT),
        one("w", "histogram_series", {"type": "COUNTING", "edges": [0.0, 1.0], "values": [1.0]}, "histogram"),
    ]
    write(root, "RUN-1", first, second)
    write(root, "RUN-2", [series("x", "0.5", 1.0)])
    return root


async def test_an_export_comes_with_ids_times_and_numbers(world: World, exported: Path) -> None:
    source = opened(Where(str(exported), step_multiplier=1000), lambda *_: None).input
    reports = {report.original: report for report in await bring(world, source)}
    assert {report.outcome for report in reports.values()} == {"new"}
    report = reports["RUN-1"]
    stored = await runs.by_external_id(world.pool, world.ledger_id, "RUN-1")
    assert stored is not None
    assert stored.run_id == report.run_id
    run = stored.run
    assert (run.name, run.status, run.tags) == ("my experiment", Status.FAILED, ("neptune", "b", "a"))
    assert run.config == {"params/lr": 0.1, "params/n": 2**53 + 1, "params/when": AT.isoformat()}
    assert (run.started_at, run.ended_at) == (AT - timedelta(hours=1), AT + timedelta(seconds=2))
    found = (await points(world, stored.run_id))["train/loss"]
    us = codec.microseconds(AT)
    assert [point[:2] for point in found] == [(0, us), (1_000, us + 1_000_000), (2_000, us + 2_000_000)]
    assert struct.pack("<3d", *(point[2] for point in found)) == struct.pack("<3d", 0.1, float("nan"), float("inf"))
    (lines,) = await world.ledger.read_telemetry(world.ledger_id, stored.run_id, after=0, limit=9, types=[codec.LOGS])
    assert lines.event().text == ("hello",)
    saved = await artifacts.by_name(world.pool, world.ledger_id, stored.run_id, "model")
    assert saved is not None
    assert saved.bytes == 7
    assert await artifacts.by_name(world.pool, world.ledger_id, stored.run_id, "evil") is None
    assert any("file 'evil'" in text for text in report.left_out)
    assert {"histogram_series: 1 values", "string_series: 1 values"} <= set(report.left_out)

    head = await world.ledger.head(world.ledger_id)
    again = Neptune(exported, multiplier=1000)
    assert {report.outcome for report in await bring(world, again)} == {"already there"}
    assert await world.ledger.head(world.ledger_id) == head


async def test_a_run_whose_parts_are_not_all_there_is_refused(world: World, exported: Path) -> None:
    directory = exported / "data" / "org_project-0a1b"
    for name in ("RUN-6", "RUN-7", "RUN-8"):
        write(exported, name, *([series("x", str(step), 1.0)] for step in range(3)))
    (directory / "RUN-6_part_0.parquet").rename(directory / "RUN-6_part_0.parquet.tmp")  # the exporter died there
    (directory / "RUN-7_part_1.parquet").unlink()
    for number in range(3):
        (directory / f"RUN-8_part_{number}.parquet").rename(directory / f"RUN-8_part_{number}.parquet.tmp")
    reports = {report.name: report for report in await bring(world, Neptune(exported, multiplier=1000))}
    for name, why in (("RUN-6", "its part 0 is missing"), ("RUN-7", "its part 1 is missing"), ("RUN-8", "its part 0")):
        assert (reports[name].outcome, reports[name].why.startswith(why)) == ("refused", True), reports[name].why
    assert reports["my experiment"].outcome == "new"


async def test_fractions_and_strange_files_are_refused(world: World, exported: Path, tmp_path: Path) -> None:
    write(exported, "RUN-3", [one("sys/state", "string", "Active"), series("x", "0", 1.0)])
    strange = exported / "data" / "org_project-0a1b" / "RUN-4_part_0.parquet"
    pq.write_table(pa.table({"a": [1]}), strange)
    (exported / "data" / "org_project-0a1b" / "RUN-5_part_0.parquet").write_bytes(b"PAR1")
    reports = {report.name: report for report in await bring(world, Neptune(exported))}
    assert "give --step-multiplier" in reports["RUN-2"].why
    assert "it was active" in reports["RUN-3"].why
    assert "has no column" in reports["RUN-4"].why
    assert reports["RUN-5"].outcome == "refused"
    assert reports["RUN-5"].why.startswith("RUN-5_part_0.parquet cannot be read: ")
    assert reports["my experiment"].outcome == "new"
    with pytest.raises(Unreadable, match="has no files of neptune-exporter"):
        Neptune(tmp_path / "nothing")
