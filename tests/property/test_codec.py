"""Bytes and back, and what a leaf commits to."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from events import codec
from events.codec import EVENT_TYPES, Leaf
from events.types import Event
from tests.property.strategies import INTEGERS, MOMENTS, TEXTS, structs

OPTIONAL_INTEGERS = st.none() | INTEGERS
LEAVES = st.builds(
    Leaf,
    ledger_id=st.uuids(),
    event_id=st.uuids(),
    stream=st.uuids(),
    version=OPTIONAL_INTEGERS,
    type=TEXTS,
    schema_version=INTEGERS,
    actor=TEXTS,
    cause=st.none() | TEXTS,
    correlation_id=st.none() | st.uuids(),
    causation_id=st.none() | st.uuids(),
    epoch=OPTIONAL_INTEGERS,
    source=st.none() | TEXTS,
    seq=OPTIONAL_INTEGERS,
    part=OPTIONAL_INTEGERS,
    occurred_at=MOMENTS,
    commitment=st.binary(max_size=32),
)
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
def test_leaves_that_differ_in_one_column_differ(leaf: Leaf, other: Leaf) -> None:
    for name in Leaf.__struct_fields__:
        changed = replace(leaf, **{name: getattr(other, name)})
        assert (codec.leaf_body(changed) == codec.leaf_body(leaf)) == (changed == leaf)


@given(LEAVES, TEXTS, TEXTS)
def test_text_does_not_move_unseen_from_one_column_to_the_next(leaf: Leaf, one: str, two: str) -> None:
    apart = replace(leaf, type=one, actor=two, cause=None)
    bodies = {
        codec.leaf_body(one_way)
        for one_way in (
            apart,
            replace(apart, type=one + two, actor=""),
            replace(apart, type="", actor=one + two),
            replace(apart, actor=one, cause=two),
        )
    }
    ways = {(one, two, None), (one + two, "", None), ("", one + two, None), (one, one, two)}
    assert len(bodies) == len(ways)


@given(LEAVES)
def test_an_absent_column_is_no_value(leaf: Leaf) -> None:
    nothing = {"version": None, "cause": None, "epoch": None, "source": None, "seq": None, "part": None}
    for name, value in (("cause", ""), ("source", ""), ("version", 0), ("epoch", -1), ("seq", 0), ("part", 0)):
        bare = replace(leaf, **nothing)
        assert codec.leaf_body(replace(bare, **{name: value})) != codec.leaf_body(bare)


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
