"""What a process saw last of its streams: bounded, and the least used goes first."""

from uuid import UUID

import pytest

from events import recent
from events.recent import Recent


def test_the_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_STREAMS", 2)
    states = Recent()
    states.keep(UUID(int=1), "one", 1)
    states.keep(UUID(int=2), "two", 1)
    assert states.get(UUID(int=1)) == "one"
    states.keep(UUID(int=3), "three", 1)
    assert [states.get(UUID(int=n)) for n in (1, 2, 3)] == ["one", None, "three"]


def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_BYTES", 100)
    states = Recent()
    states.keep(UUID(int=1), "old", 60)
    states.keep(UUID(int=1), "new", 50)
    states.keep(UUID(int=2), "two", 50)
    assert [states.get(UUID(int=n)) for n in (1, 2)] == ["new", "two"]
    states.forget(UUID(int=2))
    states.keep(UUID(int=3), "three", 50)
    assert [states.get(UUID(int=n)) for n in (1, 2, 3)] == ["new", None, "three"]
    states.keep(UUID(int=4), "larger than all of it", 101)
    assert [states.get(UUID(int=n)) for n in (1, 3, 4)] == [None, None, None]
