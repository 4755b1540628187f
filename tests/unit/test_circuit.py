"""A store that is away is asked by one at a time; the others hear at once what that one found."""

import pytest

from events.errors import Unavailable
from projections.storage import circuit
from projections.storage.circuit import Circuit


class Away(Unavailable):
    """The store says nothing."""


def fail(circuit: Circuit) -> None:
    with pytest.raises(Away, match="silent"), circuit.asking():
        raise Away("silent")


def refuse(circuit: Circuit) -> None:
    """Check that nobody gets as far as the store."""
    with pytest.raises(Away, match="silent"), circuit.asking():
        raise AssertionError("the store was asked")


def test_all_are_refused_for_a_while_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 600.0)
    one = Circuit()
    fail(one)
    assert one.is_open
    refuse(one)
    one.close()
    with one.asking():
        pass


def test_one_at_a_time_asks_again_until_the_store_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 0.0)
    one = Circuit()
    fail(one)
    one._until = 0.0
    asking = one.asking()
    asking.__enter__()
    refuse(one)
    asking.__exit__(Away, Away("silent"), None)
    one._until = 0.0
    with one.asking():
        refuse(one)
    assert not one.is_open
    with one.asking(), one.asking():  # who answers is asked by everybody
        pass


def test_an_answer_that_is_an_error_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 0.0)
    one = Circuit()
    fail(one)
    one._until = 0.0
    with pytest.raises(FileNotFoundError), one.asking():
        raise FileNotFoundError
    assert not one.is_open


def test_whoever_is_cancelled_while_asking_leaves_the_turn_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 0.0)
    one = Circuit()
    fail(one)
    one._until = 0.0
    with pytest.raises(KeyboardInterrupt), one.asking():
        raise KeyboardInterrupt
    assert one.is_open
    fail(one)
