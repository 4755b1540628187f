"""TensorBoard's log directories, written by tensorboardX, brought here: exact, once, and honest about the rest."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.record_writer import RecordWriter, masked_crc32c

from events.types import Status
from service.imports.incoming import Unreadable
from service.imports.summaries import scalar
from service.imports.tensorboard import TensorBoard
from service.imports.tfrecord import BadRecord, Records, crc32c, fields, masked
from tests.integration.importing import bring, points
from tests.integration.telemetry import World
from tests.integration.trackers import (
    BEGAN,
    DT_BFLOAT16,
    DT_DOUBLE,
    DT_FLOAT,
    DT_HALF,
    DT_INT32,
    DT_INT64,
    DT_STRING,
    US,
    tensorboard_logs,
)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tensorboard_logs(tmp_path / "logs")


async def test_scalars_come_exactly_and_what_is_left_out_is_said(world: World, logs: Path) -> None:
    source = TensorBoard(logs)
    reports = {one.name: one for one in await bring(world, source)}
    assert set(reports) == {"logs", "logs/train", "logs/trial"}
    assert {one.outcome for one in reports.values()} == {"new"}
    report = reports["logs/train"]
    assert report.run_id is not None
    found = await points(world, report.run_id)
    tenth = float(np.float32(0.1))
    values = [tenth, float("nan"), float("inf"), float("-inf"), -0.0, 0.25]
    assert [one[0] for one in found["loss"]] == [0, 1, 2, 3, 4, 2]
    assert [one[1] for one in found["loss"]] == [US + step * 1_000_000 for step in (0, 1, 2, 3, 4, 9)]
    assert struct.pack("<6d", *(one[2] for one in found["loss"])) == struct.pack("<6d", *values)
    assert found["big"] == [(2**53 + 1, US, 1.5)]
    assert [one[2] for one in found["new"]] == [0.5, 0.5]
    assert found["double"] == [(1, US, 0.1)]
    assert set(found) == {"loss", "big", "new", "double"}
    assert report.left_out == [
        "histogram: 1 values",
        "image: 1 values",
        "records over 64 KiB: 1 values",
        "text: 1 values",
    ]

    run = (await world.stored(report.run_id)).run
    assert (run.status, run.tags) == (Status.COMPLETED, ("tensorboard",))
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.imported is not None
    assert run.imported.origin.run == "logs/train"
    trial = reports["logs/trial"].run_id
    assert trial is not None
    assert (await world.stored(trial)).run.config == {"lr": 0.1, "layers": 3.0, "name": "a", "on": True}

    head = await world.ledger.head(world.ledger_id)
    assert {one.outcome for one in await bring(world, TensorBoard(logs))} == {"already there"}
    assert await world.ledger.head(world.ledger_id) == head


async def test_a_record_that_was_never_finished_is_left_out_and_said(world: World, logs: Path) -> None:
    (file,) = (logs / "train").glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-5])
    report = next(one for one in await bring(world, TensorBoard(logs)) if one.name == "logs/train")
    assert report.outcome == "new"
    assert "a record that was never finished" in report.left_out[0]


@pytest.mark.parametrize("at", [3, 20, 60])
async def test_damage_refuses_the_run_and_only_that(world: World, logs: Path, at: int) -> None:
    (file,) = (logs / "train").glob("*tfevents*")
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(bytes(data))
    reports = {one.name: one for one in await bring(world, TensorBoard(logs))}
    assert reports["logs/train"].outcome == "refused"
    assert "does not match its checksum" in reports["logs/train"].why
    assert reports["logs"].outcome == "new"


async def test_logs_that_grew_are_another_state(world: World, logs: Path) -> None:
    await bring(world, TensorBoard(logs))
    with SummaryWriter(str(logs / "train"), filename_suffix=".later") as writer:
        writer.add_scalar("loss", 7, 100, walltime=BEGAN + 100)
    reports = {one.name: one for one in await bring(world, TensorBoard(logs))}
    assert "another state of it was imported before" in reports["logs/train"].why
    assert reports["logs"].outcome == "already there"


def test_what_is_no_log_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="has no event files"):
        TensorBoard(tmp_path)
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    (refused,) = TensorBoard(tmp_path).runs()
    assert "say nothing" in refused.why  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (TensorProto(dtype=DT_FLOAT, float_val=[0.1]), float(np.float32(0.1))),
        (TensorProto(dtype=DT_DOUBLE, double_val=[0.1]), 0.1),
        (TensorProto(dtype=DT_INT32, int_val=[-3]), -3.0),
        (TensorProto(dtype=DT_INT64, int64_val=[1 << 40]), float(1 << 40)),
        (TensorProto(dtype=DT_INT64, tensor_content=struct.pack("<q", -5)), -5.0),
        (TensorProto(dtype=DT_HALF, half_val=[0x3C00]), 1.0),
        (TensorProto(dtype=DT_BFLOAT16, half_val=[0x3F80]), 1.0),
        (TensorProto(dtype=DT_STRING, string_val=[b"x"]), None),
        (TensorProto(dtype=DT_FLOAT), None),
        (
            TensorProto(
                dtype=DT_FLOAT,
                float_val=[1, 2],
                tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=2)]),
            ),
            None,
        ),
    ],
)
def test_a_tensor_of_rank_0_is_a_number(value: TensorProto, expected: float | None) -> None:
    assert scalar(value.SerializeToString()) == expected


def test_the_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720
    for data in (b"", b"\0" * 32, bytes(range(256))):
        assert masked(crc32c(data)) == masked_crc32c(data)


def records(path: Path) -> Iterator[bytes]:
    return iter(Records(path))


def test_records_come_back_and_no_length_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "records"
    writer = RecordWriter(str(path))
    for data in (b"", b"a", b"b" * 70_000, b"c"):
        writer.write(data)
    writer.close()
    assert list(records(path)) == [b"", b"a", b"", b"c"]
    whole = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 62) + whole[8:])
    with pytest.raises(BadRecord, match="the length of the record at byte 0"):
        list(records(path))


@pytest.mark.parametrize("message", [b"\x08", b"\x0a\x05ab", b"\x0b", b"\x08" + b"\xff" * 11])
def test_a_broken_message_is_said_to_be(message: bytes) -> None:
    with pytest.raises(BadRecord):
        list(fields(message))
