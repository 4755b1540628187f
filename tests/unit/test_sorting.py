"""Files that are sorted and written a row group at a time are those that pyarrow makes of the whole, byte by byte."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.telemetry import MetricColumns
from projections.archive import points, sorting
from projections.archive.parquet import METRICS_SCHEMA, parquet_options
from projections.archive.sorting import Sorting, metrics_table, sorted_points
from projections.archive.writing import MetricsWriter

SERIES = st.tuples(st.sampled_from(["a", "b", "ünï", "z"]), st.lists(st.integers(-3, 3), max_size=40), st.booleans())
BATCHES = st.lists(st.lists(SERIES, max_size=3, unique_by=lambda one: one[0]), min_size=1, max_size=6)


def batch(series: list[tuple[str, list[int], bool]], number: int, stages: tuple[str | None, ...]) -> MetricColumns:
    """Return series as a batch whose values tell its points apart; those that say so have their steps in order."""
    steps = [sorted(own) if ordered else own for _, own, ordered in series]
    step = np.array([one for own in steps for one in own], "<i8")
    return MetricColumns(
        names=tuple(name for name, _, _ in series),
        counts=tuple(len(own) for own in steps),
        step=step.tobytes(),
        value=(1_000.0 * number + np.arange(len(step))).astype("<f8").tobytes(),
        time_us=(step + number).tobytes(),
        stages=stages,
        stage=(np.arange(len(step)) % len(stages)).astype("<u2").tobytes() if stages else None,
    )


@pytest.mark.parametrize("long_piece", [1, 8, 1 << 30])
@pytest.mark.parametrize("stages", [(), (None,), (None, "warmup", "main")])
@given(series=BATCHES, group_rows=st.integers(4, 50))
@settings(deadline=None, max_examples=25)
def test_points_come_by_metric_step_and_arrival_whatever_groups_they_are_taken_in(
    long_piece: int,
    stages: tuple[str | None, ...],
    series: list[list[tuple[str, list[int], bool]]],
    group_rows: int,
) -> None:
    batches = [(number, batch(own, number, stages)) for number, own in enumerate(series, 1)]
    expected = []
    for position, one in batches:
        metric = np.repeat(np.array(one.names, object), one.counts).tolist()
        own = one.stage_indices()
        stage = [None] * one.points if own is None else [one.stages[index] for index in own.tolist()]
        columns = metric, one.steps().tolist(), one.times().tolist(), one.values().tolist(), stage
        expected += [(*row, position) for row in zip(*columns, strict=True)]
    expected.sort(key=lambda row: row[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "LONG_PIECE", long_piece)
        patch.setattr(points, "ROW_GROUP_ROWS", group_rows)
        patch.setattr(sorting, "ROW_GROUP_ROWS", group_rows)
        found = [tuple(row.values()) for group in Sorting(batches).groups() for row in group.table().to_pylist()]
        assert found == expected
        if expected:
            assert [tuple(row.values()) for row in metrics_table(batches).to_pylist()] == expected


@pytest.mark.parametrize("metrics", [1, 3, 127, 128, 40_000])
@pytest.mark.parametrize("stages", [(), ("main",)])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_file_has_the_bytes_that_pyarrow_writes_of_plain_tables(
    tmp_path: Path, *, metrics: int, stages: tuple[str, ...], backwards: bool
) -> None:
    each = max(1, 150_000 // metrics)
    series = [(f"metric {index:05d}", list(range(each))[:: -1 if backwards else 1], False) for index in range(metrics)]
    batches = [(number, batch(series, number, stages)) for number in (4, 7)]
    with MetricsWriter(tmp_path / "metrics-1.parquet") as writer:
        for group in Sorting(batches).groups():
            writer.add_group(group)
        data = writer.close().data
    every = sorted_points(batches)
    written = pq.ParquetFile(data.temporary).metadata
    options = parquet_options(METRICS_SCHEMA)
    with pq.ParquetWriter(tmp_path / "bare.parquet", METRICS_SCHEMA, **options) as bare:
        begin = 0
        for rows in (written.row_group(number).num_rows for number in range(written.num_row_groups)):
            bare.write_table(every.part(begin, begin + rows).table(), row_group_size=rows)
            begin += rows
    assert begin == len(every)
    assert data.sha256 == hashlib.sha256((tmp_path / "bare.parquet").read_bytes()).hexdigest()
