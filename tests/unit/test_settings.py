"""Numbers that the environment tells are taken exactly, or refused by the variable's name."""

import msgspec
import pytest

from events.settings import MOST, SettingsError, numbers


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    rows: int = 7
    wait_seconds: float = 0.5


def test_what_is_not_said_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUND_ROWS", "12")
    monkeypatch.setenv("BOUND_WAIT_SECONDS", "")
    assert numbers(Bounds, "BOUND") == Bounds(rows=12, wait_seconds=0.5)


def test_a_fraction_is_taken_where_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUND_WAIT_SECONDS", "2.5")
    assert numbers(Bounds, "BOUND").wait_seconds == 2.5


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "nan", "inf", str(MOST + 1), "9" * 400])
def test_what_is_no_whole_number_above_zero_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BOUND_ROWS", text)
    with pytest.raises(SettingsError, match="BOUND_ROWS is a whole number above zero"):
        numbers(Bounds, "BOUND")


@pytest.mark.parametrize("text", ["0", "-0.1", "soon", "nan", "inf"])
def test_what_is_no_number_above_zero_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BOUND_WAIT_SECONDS", text)
    with pytest.raises(SettingsError, match="BOUND_WAIT_SECONDS is a number above zero"):
        numbers(Bounds, "BOUND")
