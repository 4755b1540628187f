"""How fast a run goes and how long it takes, by tables of reports and times."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from events.progress import MEMORY_SECONDS, STALE_SECONDS, Estimate, Progress, estimated, reported
from events.run_events import RunProgressReported
from service.bodies import ProgressBody

START = datetime(2026, 3, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def told(
    *reports: tuple[float, float], total: float | None = 100.0, unit: str = "", epoch: int = 1
) -> tuple[Progress, datetime]:
    """Return the progress after reports of (seconds, done), and the time of the last."""
    progress, at = None, None
    for seconds, done in reports:
        event = RunProgressReported(epoch=epoch, done=done, total=total, unit=unit)
        progress, at = reported(progress, event, at), after(seconds)
    assert progress is not None
    assert at is not None
    return progress, at


@pytest.mark.parametrize(
    ("reports", "total", "now", "percent", "rate", "remaining"),
    [
        # one report tells no rate
        ([(0, 10)], 100, 0, 10, None, None),
        ([(0, 0)], 100, 5, 0, None, None),
        # an even pace, whatever the spacing
        ([(0, 0), (10, 10)], 100, 10, 10, 1.0, 90.0),
        ([(0, 0), (1, 1), (2, 2), (100, 100)], 200, 100, 50, 1.0, 100.0),
        ([(0, 0), (600, 6), (1200, 12)], 24, 1200, 50, 0.01, 1200.0),
        # what has passed since the last report no longer remains
        ([(0, 0), (10, 10)], 100, 40, 10, 1.0, 60.0),
        ([(0, 0), (10, 10)], 100, 200, 10, 1.0, 0.0),
        # begun late: what was done before the first report took no time that we know of
        ([(0, 50), (10, 60)], 100, 10, 60, 1.0, 40.0),
        # at its end, and beyond
        ([(0, 0), (10, 100)], 100, 10, 100, 10.0, 0.0),
        ([(0, 100)], 100, 0, 100, None, 0.0),
        ([(0, 0), (10, 101)], 100, 10, None, 10.1, None),
        # no total
        ([(0, 0), (10, 10)], None, 10, None, 1.0, None),
        # it stands still
        ([(0, 5), (10, 5)], 100, 10, 5, 0.0, None),
        # at the same time
        ([(0, 0), (0, 5)], 100, 0, 5, None, None),
        # less than before: it began anew
        ([(0, 0), (10, 50), (20, 0)], 100, 20, 0, None, None),
        ([(0, 0), (10, 50), (20, 0), (30, 1)], 100, 30, 1, 0.1, 990.0),
        # so slow that nobody will see the end
        ([(0, 0), (10, 1e-9)], 100, 10, 1e-9, 1e-10, None),
        # silent for too long, by the clock and by its own pace
        ([(0, 0), (10, 10)], 1e6, 10 + STALE_SECONDS + 1, 1e-3, 1.0, None),
        ([(0, 0), (3600, 1)], 10, 3600 + STALE_SECONDS + 1, 10, 1 / 3600, 8 * 3600.0 + 3600 - STALE_SECONDS - 1),
        ([(0, 0), (3600, 1)], 10, 3600 * 6 + 1, 10, 1 / 3600, None),
    ],
)
def test_what_can_be_told(
    reports: list[tuple[float, float]],
    total: float | None,
    now: float,
    percent: float | None,
    rate: float | None,
    remaining: float | None,
) -> None:
    progress, at = told(*reports, total=total)
    found = estimated(progress, at, after(now))
    expected = Estimate(percent=percent, rate_per_second=rate, remaining_seconds=remaining)
    for name in Estimate.__struct_fields__:
        wanted = getattr(expected, name)
        assert getattr(found, name) == (None if wanted is None else pytest.approx(wanted, rel=1e-9)), name


def test_a_change_of_pace_is_taken_up_by_the_time_that_it_lasts() -> None:
    slow, hasty = [(10.0 * n, 1.0 * n) for n in range(61)], [(600.0 + n, 60.0 + n) for n in range(1, 301)]
    rates = []
    for some in (0, 30, 300):
        progress, at = told(*slow, *hasty[:some], total=None)
        rate = estimated(progress, at, at).rate_per_second
        assert rate is not None
        rates.append(rate)
    assert rates[0] == pytest.approx(0.1)
    assert 0.1 < rates[1] < 0.3, "half a minute does not turn it over"
    fade = math.exp(-300 / MEMORY_SECONDS)
    assert 1 - fade < rates[2] < 1, "its time constant does"


def test_one_late_report_is_not_the_pace() -> None:
    even = [(float(n), float(n)) for n in range(301)]
    progress, at = told(*even, (310.0, 301.0), total=1_000.0)
    rate = estimated(progress, at, at).rate_per_second
    assert rate is not None
    assert 0.9 < rate < 1.0


@pytest.mark.parametrize(("unit", "epoch"), [("batches", 1), ("", 2)])
def test_another_unit_and_another_attempt_begin_anew(unit: str, epoch: int) -> None:
    progress, at = told((0, 0), (10, 10))
    event = RunProgressReported(epoch=epoch, done=20, total=100.0, unit=unit)
    progress = reported(progress, event, at)
    assert progress == Progress(done=20, total=100.0, unit=unit, epoch=epoch)
    assert estimated(progress, after(20), after(20)) == Estimate(percent=20.0)


def test_nothing_remains_of_what_does_not_go_on() -> None:
    progress, at = told((0, 0), (10, 10))
    assert estimated(progress, at, at, goes_on=False) == Estimate(percent=10.0, rate_per_second=1.0)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"done": math.nan}, "$.done"),
        ({"done": -1}, "$.done"),
        ({"done": "1"}, "$.done"),
        ({"done": None}, "$.done"),
        ({"done": 1, "total": 0}, "$.total"),
        ({"done": 1, "total": -5}, "$.total"),
        ({"done": 1, "total": math.nan}, "$.total"),
        ({"done": 1, "unit": "x" * 65}, "$.unit"),
        ({"done": 1, "unit": "a\nb"}, "$.unit"),
    ],
)
def test_absurd_numbers_are_refused_by_their_paths(body: dict[str, object], path: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.msgpack.decode(msgspec.msgpack.encode({"epoch": 1, **body}), type=ProgressBody)
    assert f"`{path}`" in str(refusal.value)
