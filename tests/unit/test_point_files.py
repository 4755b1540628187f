"""One metric's rows of a file are what they are in memory, whichever row groups they lie in."""

from pathlib import Path

import numpy as np
import pytest

from projections.archive import writing
from projections.archive.points import SortedPoints
from projections.archive.writing import MetricsWriter
from projections.charts import point_files
from projections.charts.buckets import joined
from projections.charts.point_files import Rows, Unreadable

EVERYTHING = (-(1 << 63), (1 << 63) - 1)
METRICS = ("a", "b", "c", "few", "long", "z")
SIZES = (40, 5, 300, 1, 7_000, 2)


@pytest.fixture(scope="module")
def every() -> SortedPoints:
    choice = np.random.default_rng(4)
    metric = np.repeat(np.arange(len(SIZES), dtype=np.int32), SIZES)
    step = np.concatenate([np.sort(choice.integers(-50, 2 * size, size)) for size in SIZES])
    n = len(step)
    return SortedPoints(
        metrics=METRICS, stages=("main", "warmup"), metric=metric, step=step, time_us=choice.integers(0, 1_000, n),
        value=choice.standard_normal(n), stage=choice.integers(-1, 2, n, dtype=np.int32),
        position=choice.integers(1, 20, n),
    )  # fmt: skip


@pytest.fixture(scope="module")
def path(every: SortedPoints, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write them in row groups of few rows, so that metrics share some and have others to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "ROW_GROUP_ROWS", 200)
        with MetricsWriter(tmp_path_factory.mktemp("points") / "metrics-1.parquet") as writer:
            writer.add(every)
            files = writer.close()
    files.publish()
    return files.data.path


@pytest.mark.parametrize("part_points", [64, 1 << 20])
@pytest.mark.parametrize(
    "asked",
    [
        {"ranges": [EVERYTHING]},
        {"ranges": [(10, 60)]},
        {"ranges": [(-20, 3), (400, 13_000)]},
        {"ranges": [(900, 1_000)]},
        {"ranges": [(20_000, 30_000)]},
        {"ranges": []},
        {"ranges": [EVERYTHING], "x": "time_us"},
        {"ranges": [(100, 200), (700, 701)], "x": "time_us"},
        {"ranges": [EVERYTHING], "stage": "main"},
        {"ranges": [(0, 500)], "x": "time_us", "stage": "warmup", "after": 7},
        {"ranges": [EVERYTHING], "stage": "nothing"},
        {"ranges": [(5, 250)], "after": 12},
        {"ranges": [EVERYTHING], "after": 20},
    ],
)
def test_a_file_gives_the_rows_that_count(
    path: Path, every: SortedPoints, asked: dict[str, object], part_points: int
) -> None:
    for metric in (*METRICS, "", "bb", "zz"):
        rows = Rows(metric, **({"x": "step"} | asked))  # type: ignore[arg-type]
        found = joined(list(point_files.read(path, rows, part_points)))
        x = getattr(every, rows.x)
        keep = every.metric == (METRICS.index(metric) if metric in METRICS else -1)
        keep &= np.any([(x >= low) & (x <= high) for low, high in rows.ranges] or [np.zeros(len(x), bool)], axis=0)
        if rows.stage is not None:
            keep &= every.stage == {"main": 0, "warmup": 1}.get(rows.stage, 9)
        keep &= every.position > rows.after
        for name, column in (("step", every.step), ("x", x), ("value", every.value)):
            np.testing.assert_array_equal(getattr(found, name), column[keep], err_msg=f"{metric} {name}")


def test_a_file_without_points_has_none(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics-1.parquet") as writer:
        files = writer.close()
    files.publish()
    assert list(point_files.read(files.data.path, Rows("a", "step", [EVERYTHING]), 10)) == []


@pytest.mark.parametrize("how", ["gone", "torn", "changed"])
def test_a_file_that_cannot_be_read_is_said_and_no_shorter_answer(path: Path, tmp_path: Path, how: str) -> None:
    whole = path.read_bytes()
    broken = tmp_path / path.name
    if how != "gone":
        broken.write_bytes(whole[:-200] if how == "torn" else whole[:4] + bytes(4_000) + whole[4_004:])
    with pytest.raises(Unreadable, match=path.name):
        list(point_files.read(broken, Rows("a", "step", [EVERYTHING]), 10))
