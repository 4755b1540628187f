"""Derived ids stay what they are: a repetition after an update must find what was stored before."""

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from events.ids import derived

NAMESPACE = UUID("6f1c61e4-1d8b-5c1c-9a43-7a1f0b6d2c55")


@given(st.lists(st.one_of(st.uuids(), st.integers(), st.text())))
def test_an_id_is_the_name_based_uuid_of_its_parts(parts: list[object]) -> None:
    name = "".join(f"{len(str(part))}:{part}" for part in parts)
    assert derived(*parts) == uuid5(NAMESPACE, name)


def test_parts_are_kept_apart() -> None:
    assert derived("ab", "c") != derived("a", "bc") != derived("abc")


def test_an_id_of_an_earlier_release_is_still_the_same() -> None:
    assert derived(NAMESPACE, 1, "sdk", 77) == UUID("8e056e33-8241-5127-baba-b2a23044d556")
