"""Files that become one: the same rows in the order of one file; and which files do."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.ids import uuid7
from events.telemetry import LogColumns, MetricColumns
from projections.archive import merging, parquet
from projections.archive.manifest import Segment
from projections.archive.sorting import sorted_points
from projections.archive.writing import MetricsWriter, write_logs
from workers.archive_policy import MERGED_AT_ONCE, Policy, to_merge

ROW = st.tuples(st.sampled_from(["a", "b", "ünï"]), st.integers(-3, 3), st.sampled_from([None, "warmup", "main"]))
BATCH = st.lists(ROW, max_size=30)


def batch(rows: list[tuple[str, int, str | None]], number: int) -> MetricColumns:
    """Return rows as a batch whose values say which they are."""
    rows = sorted(rows, key=lambda row: row[0])
    names = sorted({name for name, _, _ in rows})
    stages = (None, "warmup", "main")
    return MetricColumns(
        names=tuple(names),
        counts=tuple(sum(row[0] == name for row in rows) for name in names),
        step=np.array([step for _, step, _ in rows], "<i8").tobytes(),
        value=(1000.0 * number + np.arange(len(rows))).astype("<f8").tobytes(),
        time_us=np.arange(len(rows)).astype("<i8").tobytes(),
        stages=stages,
        stage=np.array([stages.index(stage) for _, _, stage in rows], "<u2").tobytes(),
    )


def written(path: Path, batches: list[tuple[int, MetricColumns]]) -> Path:
    with MetricsWriter(path) as writer:
        writer.add(sorted_points(batches))
        writer.close().publish()
    return path


@pytest.mark.parametrize("part_rows", [1, 7, 32_768])
@given(files=st.lists(st.lists(BATCH, min_size=1, max_size=3), min_size=1, max_size=5))
@settings(max_examples=40)
def test_merged_files_are_the_file_that_all_batches_would_have_made(
    tmp_path_factory: pytest.TempPathFactory, part_rows: int, files: list[list[list[tuple[str, int, str | None]]]]
) -> None:
    directory = tmp_path_factory.mktemp("merging")
    numbered = iter(range(100))
    batches = [[(number := next(numbered), batch(rows, number)) for rows in file] for file in files]
    paths = [written(directory / f"metrics-{index}.parquet", file) for index, file in enumerate(batches)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "PART_ROWS", part_rows)
        merging.merge_metrics(paths, directory / "metrics-merged.parquet").publish()
    whole = written(directory / "metrics-whole.parquet", [one for file in batches for one in file])
    assert pq.read_table(directory / "metrics-merged.parquet").to_pylist() == pq.read_table(whole).to_pylist()


def test_a_merged_file_has_the_levels_of_all_its_points(tmp_path: Path) -> None:
    names, steps = ["a", "b"], 12_000
    paths = []
    for index in range(3):
        step = np.tile(np.arange(index * steps, (index + 1) * steps), 2)
        points = MetricColumns(
            names=tuple(names), counts=(steps, steps), step=step.tobytes(), time_us=step.tobytes(),
            value=(step * 0.5).tobytes(),
        )  # fmt: skip
        paths.append(written(tmp_path / f"metrics-{index}.parquet", [(index, points)]))
    assert not list(tmp_path.glob("levels-*"))
    files = merging.merge_metrics(paths, tmp_path / "metrics-merged.parquet")
    assert files.data.rows == 6 * steps
    assert files.levels is not None
    table = pq.read_table(files.levels.temporary)
    for name in names:
        own = table.filter(np.array(table["metric"].to_pylist()) == name)
        lowest = own.filter(np.asarray(own["level"]) == min(own["level"].to_pylist()))
        assert sum(lowest["count"].to_pylist()) == 3 * steps
        assert max(lowest["max"].to_pylist()) == (3 * steps - 1) * 0.5


def test_logs_come_behind_each_other(tmp_path: Path) -> None:
    paths = []
    for position in range(1, 5):
        lines = LogColumns(
            time_us=np.arange(3, dtype="<i8").tobytes(), stream=bytes([0, 1, 2]),
            text=tuple(f"{position}.{n}" for n in range(3)),
        )  # fmt: skip
        path = tmp_path / f"logs-{position}.parquet"
        write_logs(path, [parquet.logs_table([(position, lines)])]).publish()
        paths.append(path)
    merging.merge_logs(paths, tmp_path / "logs-merged.parquet").publish()
    rows = pq.read_table(tmp_path / "logs-merged.parquet").to_pylist()
    assert [(row["position"], row["line"]) for row in rows] == [(p, n) for p in range(1, 5) for n in range(3)]
    assert [row["text"] for row in rows] == [f"{p}.{n}" for p in range(1, 5) for n in range(3)]
    assert {row["stream"] for row in rows} == {"stdout", "stderr", "log"}


KIB, MIB = 1 << 10, 1 << 20


def segments(*sizes: int) -> list[Segment]:
    return [Segment(uuid7(), f"{n}", size, 10 * n + 1, 10 * n + 9, size, "") for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "ended", "merged"),
    [
        ([KIB] * 7, False, 0),
        ([KIB] * 8, False, 8),
        ([KIB] * 1_000, False, MERGED_AT_ONCE),
        ([MIB] * 7 + [KIB] * 7, False, 14),
        ([MIB] * 7 + [KIB] * 8, False, 8),
        ([MIB] * 8, False, 8),
        ([100 * MIB] * 9, False, 0),  # large enough
        ([60 * MIB] * 9, False, 2),  # no more fit in one
        ([KIB], True, 0),
        ([KIB, KIB], True, 2),
        ([50 * MIB, KIB], True, 0),  # not worth writing all that again
        ([50 * MIB, 7 * MIB], True, 2),
        ([100 * MIB, KIB, KIB], True, 2),
        ([], True, 0),
    ],
)
def test_small_neighbours_of_about_one_size_are_merged(sizes: list[int], *, ended: bool, merged: int) -> None:
    policy = Policy(merge_bytes=128 * MIB)
    files = segments(*sizes)
    chosen = list(to_merge(files, policy, ended=ended))
    assert len(chosen) == merged
    if chosen:
        begin = files.index(chosen[0])
        assert chosen == files[begin : begin + merged]


@given(sizes=st.lists(st.integers(1, 10 * MIB), max_size=80), ended=st.booleans())
def test_a_point_is_written_a_few_times_and_few_files_are_left(*, sizes: list[int], ended: bool) -> None:
    policy = Policy(merge_bytes=64 * MIB)
    files: list[Segment] = []
    wrote = 0
    for one in segments(*sizes):
        files.append(one)
        while chosen := to_merge(files, policy, ended=ended):
            begin = files.index(chosen[0])
            (together,) = segments(sum(file.bytes for file in chosen))
            files[begin : begin + len(chosen)] = [together]
            wrote += together.bytes
    assert sum(file.bytes for file in files) == sum(sizes)
    assert wrote <= 40 * sum(sizes)
    small = [file for file in files if file.bytes <= policy.merge_bytes // 2]
    assert len(small) <= 10 + 8 * policy.merge_files
