"""Batches to sorted tables, tables to Parquet bytes, bytes to files."""

import errno
import hashlib
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.ids import uuid7
from events.telemetry import LogColumns, MetricColumns
from projections.archive import parquet
from projections.archive.parquet import ROW_GROUP_ROWS
from projections.archive.sorting import metrics_table, sorted_points
from projections.archive.stores import Directory
from projections.archive.writing import MetricsWriter, write_logs
from projections.charts.buckets import Points, edges, exact, joined


def batch(series: dict[str, list[tuple[int, float]]], stages: list[str | None] | None = None) -> MetricColumns:
    points = [point for own in series.values() for point in own]
    steps = np.array([step for step, _ in points], "<i8")
    known = tuple(dict.fromkeys(stages or ()))
    return MetricColumns(
        names=tuple(series),
        counts=tuple(len(own) for own in series.values()),
        step=steps.tobytes(),
        value=np.array([value for _, value in points], "<f8").tobytes(),
        time_us=(steps * 10).tobytes(),
        stages=known,
        stage=np.array([known.index(s) for s in stages], "<u2").tobytes() if stages else None,
    )


def written(directory: Path, batches: list[tuple[int, MetricColumns]]) -> Path:
    path = directory / "metrics-1.parquet"
    with MetricsWriter(path) as writer:
        writer.add(sorted_points(batches))
        writer.close().publish()
    return path


def rows(table: pa.Table) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in table.select(["metric", "step", "value", "position"]).to_pylist()]


def test_points_are_sorted_by_metric_and_step_and_repeated_steps_keep_their_order() -> None:
    table = metrics_table(
        [
            (3, batch({"b": [(2, 0.0), (1, 1.0)], "a": [(5, 2.0), (5, 3.0)]})),
            (7, batch({"a": [(4, 4.0), (5, 5.0)], "b": [(1, 6.0)]})),
        ]
    )
    assert rows(table) == [
        ("a", 4, 4.0, 7),
        ("a", 5, 2.0, 3),
        ("a", 5, 3.0, 3),
        ("a", 5, 5.0, 7),
        ("b", 1, 1.0, 3),
        ("b", 1, 6.0, 7),
        ("b", 2, 0.0, 3),
    ]


@pytest.mark.parametrize("points", [1, 100])
def test_the_order_is_the_same_however_long_the_pieces_of_a_series_are(points: int) -> None:
    choice = np.random.default_rng(points)
    batches, expected = [], []
    for position in range(1, 30):
        names = choice.permutation([f"m{n}" for n in range(5)])[: choice.integers(0, 6)].tolist()
        series = {name: [(int(step), float(step)) for step in choice.integers(-9, 9, points)] for name in names}
        batches.append((position, batch(series)))
        expected += [(name, step, value, position) for name, own in series.items() for step, value in own]
    assert rows(metrics_table(batches)) == sorted(expected, key=lambda row: row[:2])


def test_a_stage_is_kept_for_each_point_and_absent_where_none_was_given() -> None:
    table = metrics_table([(1, batch({"a": [(1, 1.0), (2, 2.0)]}, ["warmup", None])), (2, batch({"a": [(3, 3.0)]}))])
    assert table.column("stage").to_pylist() == ["warmup", None, None]


def test_every_bit_of_a_value_survives_the_file(tmp_path: Path) -> None:
    bits = np.array(
        [0x7FF8000000000000, 0x7FF8000000000123, 0xFFF8000000000001, 0x7FF0000000000000, 0xFFF0000000000000,
         0x8000000000000000, 0x0000000000000001, 0x7FEFFFFFFFFFFFFF],
        "<u8",
    )  # fmt: skip
    columns = MetricColumns(
        names=("x",), counts=(len(bits),), step=np.arange(len(bits)).astype("<i8").tobytes(),
        value=bits.tobytes(), time_us=np.zeros(len(bits), "<i8").tobytes(),
    )  # fmt: skip
    read = pq.read_table(written(tmp_path, [(1, columns)])).column("value").to_numpy()
    assert read.view("<u8").tolist() == bits.tolist()


def test_a_file_is_encoded_for_charts(tmp_path: Path) -> None:
    names = [f"metric {index}" for index in range(3)]
    rows_each = ROW_GROUP_ROWS // 2
    series = {name: [(step, 1.0 / (step + 1)) for step in range(rows_each)] for name in names}
    path = written(tmp_path, [(1, batch(series))])
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 2
    group = file.metadata.row_group(0)
    columns = {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}
    assert columns["metric"].statistics.max == "metric 1"
    assert "DELTA_BINARY_PACKED" in columns["step"].encodings
    assert "BYTE_STREAM_SPLIT" in columns["value"].encodings
    assert all(column.compression == "ZSTD" and column.has_offset_index for column in columns.values())
    assert path.stat().st_size / file.metadata.num_rows < 10


def test_a_row_group_ends_with_a_metric_where_it_can(tmp_path: Path) -> None:
    sizes = {"a": 50_000, "b": 100_000, "c": 10_000, "d": 130_000, "e": 1}
    series = {name: [(step, 1.0) for step in range(size)] for name, size in sizes.items()}
    path = written(tmp_path, [(1, batch(series))])
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    held = [(g.num_rows, g.column(0).statistics.min, g.column(0).statistics.max) for g in groups]
    assert held == [(50_000, "a", "a"), (110_000, "b", "c"), (ROW_GROUP_ROWS, "d", "d"), (7_121, "d", "e")]
    assert pq.read_table(path).equals(metrics_table([(1, batch(series))]).cast(pq.read_schema(path)))


@pytest.mark.parametrize("parts", [1, 7])
def test_a_file_has_its_digest_whatever_parts_it_was_written_in(tmp_path: Path, parts: int) -> None:
    points = sorted_points([(1, batch({"a": [(step, 0.5 * step) for step in range(20_000)]}))])
    path = tmp_path / "metrics-1.parquet"
    with MetricsWriter(path) as writer:
        for part in range(parts):
            writer.add(points.part(len(points) * part // parts, len(points) * (part + 1) // parts))
        files = writer.close()
    assert not path.exists()
    files.publish()
    assert files.levels is not None
    for one in (files.data, files.levels):
        data = one.path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one.bytes, one.sha256)
    assert pq.read_table(path).column("value").to_numpy().tolist() == points.value.tolist()
    assert Directory(tmp_path).remove(files.paths(tmp_path)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    points = sorted_points([(1, batch({"a": [(1, 1.0)]}))])

    def half_written() -> None:
        with MetricsWriter(tmp_path / "metrics-1.parquet") as writer:
            writer.add(points)
            raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(OSError, match="no room"):
        half_written()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_batch_makes_an_empty_file(tmp_path: Path) -> None:
    assert pq.read_table(written(tmp_path, [(4, batch({}))])).num_rows == 0


def test_log_lines_keep_their_order_and_place(tmp_path: Path) -> None:
    first = LogColumns(time_us=np.array([5, 4], "<i8").tobytes(), stream=bytes([1, 0]), text=("b", "ä\n"))
    second = LogColumns(time_us=np.array([6], "<i8").tobytes(), stream=bytes([2]), text=("",))
    files = write_logs(tmp_path / "logs-1.parquet", [parquet.logs_table([(2, first), (9, second)])])
    files.publish()
    table = pq.read_table(files.data.path)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (5, "stderr", "b", 2, 0),
        (4, "stdout", "ä\n", 2, 1),
        (6, "log", "", 9, 0),
    ]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / parquet.segment_path(uuid7(), uuid7(), "metrics", uuid7())
    temporary = parquet.write_temporary(path, pa.py_buffer(b"data"))
    assert not path.exists()
    parquet.publish(temporary, path)
    assert path.read_bytes() == b"data"
    assert not temporary.exists()


def test_old_files_are_found_by_their_names_temporary_ones_too(tmp_path: Path) -> None:
    ledger_id, run_id, segment = uuid7(), uuid7(), uuid7()
    path = tmp_path / parquet.segment_path(ledger_id, run_id, "logs", segment)
    temporary = parquet.write_temporary(path, pa.py_buffer(b""))
    path.with_name("notes.txt").touch()
    store = Directory(tmp_path)
    assert list(store.older_than(3600)) == []
    os.utime(temporary, (time.time() - 3601,) * 2)
    found = list(store.older_than(3600))
    assert [(one.ledger_id, one.run_id, one.segment_id) for one in found] == [(ledger_id, run_id, segment)]
    assert tmp_path / found[0].path == temporary


floats = st.floats(allow_nan=True, allow_infinity=True)
points_lists = st.lists(st.tuples(st.integers(-50, 50), st.integers(-9, 9), floats), min_size=1, max_size=60)


def as_points(rows: list[tuple[int, int, float]]) -> Points:
    x, step, value = (np.array(column) for column in zip(*rows, strict=True))
    return Points(x.astype(np.int64), step.astype(np.int64), value.astype(np.float64))


@given(points_lists)
def test_few_points_are_returned_as_they_are_in_order(rows: list[tuple[int, int, float]]) -> None:
    series = exact("m", joined([as_points(rows)]))
    expected = sorted(rows, key=lambda row: row[:2])
    assert series.x.tolist() == [x for x, _, _ in expected]
    np.testing.assert_array_equal(series.last, [value for _, _, value in expected])


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-(1 << 63), (1 << 63) - 1), (0, (1 << 63) - 1), (5, 7)])
def test_ranges_are_cut_equally_up_to_the_ends_of_the_integers(low: int, high: int) -> None:
    cuts = [low, *edges(low, high, 4).tolist(), high + 1]
    sizes = [end - start for start, end in pairwise(cuts)]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == high - low + 1
