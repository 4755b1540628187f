"""Bytes and back, and what a leaf commits to."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from events import codec
from events.codec import EVENT_TYPES
from events.types import Event
from tests.property.strategies import INTEGERS, MOMENTS, TEXTS, structs

OPTIONAL_INTEGERS = st.none() | INTEGERS
IDS = st.binary(min_size=16, max_size=16)
LEAVES = st.fixed_dictionaries(
    {
        "ledger_id": IDS,
        "event_id": IDS,
        "stream": IDS,
        "version": OPTIONAL_INTEGERS,
        "kind": TEXTS,
        "schema_version": INTEGERS,
        "actor": TEXTS,
        "cause": st.none() | TEXTS,
        "correlation_id": st.none() | IDS,
        "causation_id": st.none() | IDS,
        "epoch": OPTIONAL_INTEGERS,
        "source": st.none() | TEXTS,
        "seq": OPTIONAL_INTEGERS,
        "part": OPTIONAL_INTEGERS,
        "occurred": MOMENTS.map(codec.microseconds).map(codec.time_column),
        "commitment": st.binary(max_size=32),
    }
)
"""The columns of an event as the chain covers them."""
ANY_EVENT = st.sampled_from(sorted(EVENT_TYPES)).flatmap(lambda kind: structs(EVENT_TYPES[kind]))


@given(ANY_EVENT)
def test_an_event_is_the_same_after_a_round_trip(event: Any) -> None:
    kind = codec.event_type(event)
    payload = codec.encode(event)
    back = codec.decode(kind, event.schema_version, payload)
    assert back == event
    assert type(back) is type(event)
    assert codec.encode(back) == payload


def test_every_event_type_is_known_to_the_codec() -> None:
    def below(kind: type[Event]) -> set[str]:
        tag = kind.__struct_config__.tag
        ours = [one for one in kind.__subclasses__() if one.__module__.startswith("events.")]
        return set().union(*map(below, ours)) if ours else {str(tag)}

    assert below(Event) == set(EVENT_TYPES)


@given(LEAVES, LEAVES)
def test_leaves_that_differ_in_one_column_differ(leaf: dict[str, Any], other: dict[str, Any]) -> None:
    for name in leaf:
        changed = {**leaf, name: other[name]}
        assert (codec.body(**changed) == codec.body(**leaf)) == (changed == leaf)


@given(LEAVES, TEXTS, TEXTS)
def test_text_does_not_move_unseen_from_one_column_to_the_next(leaf: dict[str, Any], one: str, two: str) -> None:
    apart = {**leaf, "kind": one, "actor": two, "cause": None}
    bodies = {
        codec.body(**one_way)
        for one_way in (
            apart,
            {**apart, "kind": one + two, "actor": ""},
            {**apart, "kind": "", "actor": one + two},
            {**apart, "actor": one, "cause": two},
        )
    }
    ways = {(one, two, None), (one + two, "", None), ("", one + two, None), (one, one, two)}
    assert len(bodies) == len(ways)


@given(LEAVES)
def test_an_absent_column_is_no_value(leaf: dict[str, Any]) -> None:
    bare = {**leaf, **dict.fromkeys(("version", "cause", "epoch", "source", "seq", "part"))}
    for name, value in (("cause", ""), ("source", ""), ("version", 0), ("epoch", -1), ("seq", 0), ("part", 0)):
        assert codec.body(**{**bare, name: value}) != codec.body(**bare)


@given(st.binary(max_size=16), st.binary(max_size=16), INTEGERS, MOMENTS)
def test_the_chain_takes_every_part(previous: bytes, body: bytes, position: int, at: Any) -> None:
    recorded, later = (codec.time_column(codec.microseconds(at + timedelta(microseconds=one))) for one in (0, 1))
    value = codec.chain(previous.ljust(32), position, recorded, body.ljust(32))
    assert len(value) == 32
    assert value != codec.chain(previous.ljust(32), position ^ 1, recorded, body.ljust(32))
    assert value != codec.chain(b"\xff" * 32, position, recorded, body.ljust(32))
    assert value != codec.chain(previous.ljust(32), position, recorded, b"\xff" * 32)
    assert value != codec.chain(previous.ljust(32), position, later, body.ljust(32))


@given(MOMENTS)
def test_moments_keep_their_microseconds(moment: Any) -> None:
    assert codec.from_microseconds(codec.microseconds(moment)) == moment
