"""Which group a run belongs to."""

from datetime import UTC, datetime
from typing import Any

from events.ids import uuid7
from events.run import Run
from projections.charts.groups import grouped
from projections.search.fields import Known
from projections.search.filters import parse_field


def known(**run: Any) -> Known:
    return Known(run_id=uuid7(), run=Run(**run), now=datetime(2026, 1, 1, tzinfo=UTC))


def test_equal_numbers_are_one_group_and_other_types_are_others() -> None:
    runs = [known(config={"n": value}) for value in (1, 1.0, "1", True, [1], {"a": 1})] + [known()]
    groups = grouped(runs, parse_field("config.n"))
    assert [(one.value, one.runs) for one in groups] == [
        (1, (0, 1)),
        ("1", (2,)),
        ([1], (4,)),
        (True, (3,)),
        ({"a": 1}, (5,)),
        (None, (6,)),
    ]


def test_a_run_stands_with_each_of_its_tags() -> None:
    groups = grouped([known(tags=("a", "b")), known(tags=("b",)), known()], parse_field("tags"))
    assert [(one.value, one.runs) for one in groups] == [("b", (0, 1)), ("a", (0,)), (None, (2,))]
