"""What neptune-exporter writes, laid out as its writer does it (storage/parquet_writer.py), brought here."""

import struct
from datetime import timedelta
from pathlib import Path

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
from tests.integration.trackers import AT, neptune_export, one, part, series


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return neptune_export(tmp_path / "exports")


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
    for name in ("pixels/2.png", "source/a.py", "source/b/c.py"):
        assert await artifacts.by_name(world.pool, world.ledger_id, stored.run_id, name) is not None, name
    assert not any("another run" in text for text in report.left_out)
    assert await artifacts.by_name(world.pool, world.ledger_id, stored.run_id, "evil") is None
    assert any("file 'evil'" in text for text in report.left_out)
    assert {"float_series without a number: 1 values", "histogram_series: 1 values", "string_series: 1 values"} <= set(
        report.left_out
    )

    head = await world.ledger.head(world.ledger_id)
    again = Neptune(exported, multiplier=1000)
    assert {report.outcome for report in await bring(world, again)} == {"already there"}
    assert await world.ledger.head(world.ledger_id) == head


async def test_a_run_whose_parts_are_not_all_there_is_refused(world: World, exported: Path) -> None:
    directory = exported / "data" / "org_project-0a1b"
    for name in ("RUN-6", "RUN-7", "RUN-8"):
        part(exported, name, *([series("x", str(step), 1.0)] for step in range(3)))
    (directory / "RUN-6_part_0.parquet").rename(directory / "RUN-6_part_0.parquet.tmp")  # the exporter died there
    (directory / "RUN-7_part_1.parquet").unlink()
    for number in range(3):
        (directory / f"RUN-8_part_{number}.parquet").rename(directory / f"RUN-8_part_{number}.parquet.tmp")
    reports = {report.name: report for report in await bring(world, Neptune(exported, multiplier=1000))}
    for name, why in (("RUN-6", "its part 0 is missing"), ("RUN-7", "its part 1 is missing"), ("RUN-8", "its part 0")):
        assert (reports[name].outcome, reports[name].why.startswith(why)) == ("refused", True), reports[name].why
    assert reports["my experiment"].outcome == "new"


async def test_fractions_and_strange_files_are_refused(world: World, exported: Path, tmp_path: Path) -> None:
    part(exported, "RUN-3", [one("sys/state", "string", "Active"), series("x", "0", 1.0)])
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
