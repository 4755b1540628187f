"""Benchmarks are judged only on a machine that stayed what it was, and are shown without anything from elsewhere."""

from collections.abc import Sequence
from datetime import date
from xml.etree import ElementTree as ET

import pytest

from bench import picture, report
from bench.harness import Comparison, Result, Sample
from bench.probes import Probes, drift, probe
from bench.results import Section

STEADY = Probes(fdatasync_rate=1_000, memcpy_rate=4e9)


def _result(ratios: Sequence[float], goal: float | None = 0.5, *, durations: bool = False) -> Result:
    one = Comparison(what="append", ours="o", against="floor", unit="events", goal=goal, durations=durations)
    return Result(one, tuple(ratios), Sample(10, 1, 1), Sample(20, 1, 1))


def _section(*results: Result, after: Probes = STEADY) -> Section:
    return Section(
        measured_on=date(2026, 1, 2),
        machine="a machine",
        before=STEADY,
        after=after,
        load_average=1.0,
        results=list(results),
        notes=["a note"],
    )


@pytest.mark.parametrize(
    ("after", "drifted"),
    [
        (Probes(1_900, 4e9), None),
        (Probes(2_100, 4e9), "fdatasync"),
        (Probes(480, 4e9), "fdatasync"),
        (Probes(1_000, 1.9e9), "memcpy"),
    ],
)
def test_a_machine_that_went_to_twice_or_half_its_rate_has_drifted(after: Probes, drifted: str | None) -> None:
    said = drift(STEADY, after)
    assert said is None if drifted is None else said is not None and said.startswith(drifted)


@pytest.mark.parametrize(
    ("result", "met"),
    [
        (_result([0.4, 0.6, 0.7]), "yes"),
        (_result([0.4, 0.45, 0.7]), "no"),
        (_result([0.4, 0.6, 0.7], durations=True), "no"),
        (_result([0.4, 0.6, 0.7], goal=None), "–"),
    ],
)
def test_a_goal_is_judged_by_the_median_and_only_without_drift(result: Result, met: str) -> None:
    assert report.verdict(result, None) == met
    assert report.verdict(result, "memcpy drifted") == ("–" if met == "–" else "not judged")


def test_the_page_says_why_nothing_was_judged_and_counts_benchmarks_as_people_do() -> None:
    page = report.document({"P11": _section(_result([1.0])), "P2": _section(_result([1.0]), after=Probes(10, 4e9))})
    assert page.index("## P2\n") < page.index("## P11\n")
    assert "**Not judged**: fdatasync went to 0.01 times" in page
    assert page.count("| not judged |") == 1


def test_the_picture_has_a_line_for_each_goal_and_asks_for_nothing_from_elsewhere() -> None:
    sections = {"P2": _section(_result([0.01, 0.6, 90.0]), _result([1.0], goal=None)), "P8": _section(_result([2.0]))}
    drawn = picture.svg(sections)
    ET.fromstring(drawn)
    assert drawn.count("●") == 2
    assert drawn.replace("http://www.w3.org/2000/svg", "").count("http") == 0


def test_a_probe_measures_the_disk_of_the_directory_and_memory(tmp_path) -> None:
    measured = probe(str(tmp_path))
    assert measured.fdatasync_rate > 0
    assert measured.memcpy_rate > 0
