"""How much telemetry a process takes at a time, and of each key over time."""

import pytest

from events.settings import SettingsError
from service.ingest.admission import WINDOW_SECONDS, Admission, Limits, Overloaded, RateLimited, from_environment


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock | None = None, **limits: int) -> Admission:
    return Admission(Limits(**limits), clock=clock or Clock())


def test_bytes_under_way_are_bounded_and_given_back() -> None:
    one = admission(bytes_under_way=100)
    with one.admitted("a", 60):
        with pytest.raises(Overloaded, match="100 bytes") as refusal, one.admitted("b", 41):
            pass
        assert refusal.value.limit == 100
        with one.admitted("b", 40):
            assert one.bytes_under_way == 100
    assert (one.bytes_under_way, one.requests_under_way) == (0, 0)
    with one.admitted("a", 1_000):
        pass


def test_what_came_of_a_body_counts_where_it_is_more() -> None:
    one = admission(bytes_under_way=100)
    with one.admitted("a", 10) as body, one.admitted("b", 10):
        body.hold(5)
        assert one.bytes_under_way == 20
        body.hold(90)
        assert one.bytes_under_way == 100
        with pytest.raises(Overloaded):
            body.hold(91)
    assert one.bytes_under_way == 0


def test_requests_under_way_are_bounded_and_given_back_after_failures() -> None:
    one = admission(requests_under_way=1)

    def fails() -> None:
        with one.admitted("a", 1):
            with pytest.raises(Overloaded), one.admitted("b", 1):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with one.admitted("a", 1):
        pass


def test_a_key_has_a_quota_of_requests_of_its_own() -> None:
    clock = Clock()
    one = admission(clock, requests=10)
    for left in range(9, -1, -1):
        with one.admitted("a", 1) as body:
            assert f'"requests";r={left};t={10 - left}' in body.headers["RateLimit"]
            assert body.headers["RateLimit-Policy"].startswith(f'"requests";q=10;w={WINDOW_SECONDS}')
    with pytest.raises(RateLimited) as refusal, one.admitted("a", 1):
        pass
    assert (refusal.value.policy, refusal.value.limit, refusal.value.retry_after_seconds) == ("requests", 10, 1)
    assert '"requests";r=0;t=10' in refusal.value.headers["RateLimit"]
    with one.admitted("b", 1):
        pass
    clock.now += 1
    with one.admitted("a", 1):
        pass
    with pytest.raises(RateLimited), one.admitted("a", 1):
        pass


def test_a_key_has_a_quota_of_bytes_of_its_own() -> None:
    clock = Clock()
    one = admission(clock, bytes=1_000)
    with one.admitted("a", 900) as body:
        assert '"bytes";r=100;t=9' in body.headers["RateLimit"]
    with pytest.raises(RateLimited) as refusal, one.admitted("a", 600):
        pass
    assert (refusal.value.policy, refusal.value.retry_after_seconds) == ("bytes", 5)
    clock.now += 5
    with one.admitted("a", 600):
        pass


def test_what_was_refused_spends_nothing() -> None:
    one = admission(requests=2, bytes_under_way=10)
    with one.admitted("a", 10):
        for _ in range(5):
            with pytest.raises(Overloaded), one.admitted("a", 10):
                pass
    with one.admitted("a", 10):
        pass


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment() == Limits()
    monkeypatch.setenv("TACHOGRAPH_INGEST_REQUESTS", "5")
    assert from_environment() == Limits(requests=5)
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("TACHOGRAPH_INGEST_REQUESTS", wrong)
        with pytest.raises(SettingsError, match="TACHOGRAPH_INGEST_REQUESTS"):
            from_environment()
