"""The language of filters: what it means, and what it says to what it cannot read."""

from datetime import UTC, datetime

import pytest

from events.run_events import RunConfigUpdated, RunCreated, RunPrimaryMetricSet
from events.types import Mode, Status
from projections.search.facets import MAX_FACETS, changed
from projections.search.fields import Column, Facet, Metric
from projections.search.filters import Absent, And, Compare, In, Like, Not, Or, parse, parse_field
from projections.search.ordering import SortKey, parse_sort
from projections.search.tokens import FilterError

LR = Facet(("config", "lr"))
ACC = Metric("val/acc", "best")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("config.lr<1e-3", Compare(LR, "<", 1e-3)),
        ("config.lr = -0.5", Compare(LR, "=", -0.5)),
        ("config.lr <> 1 or config.lr == 2", Or((Compare(LR, "!=", 1.0), Compare(LR, "=", 2.0)))),
        (
            "NOT config.lr = 1 AND tags = 'a' OR archived = true",
            Or(
                (
                    And((Not(Compare(LR, "=", 1.0)), Compare(Facet(("tags",)), "=", "a"))),
                    Compare(Column("archived"), "=", True),
                )
            ),
        ),
        ("not (tags like 'a%')", Not(Like(Facet(("tags",)), "a%"))),
        ("metrics.val/acc.best >= 0.9", Compare(ACC, ">=", 0.9)),
        ("metrics.`val.acc`.last IS NULL", Absent(Metric("val.acc", "last"))),
        ("metrics.val.acc.last IS NOT NULL", Absent(Metric("val.acc", "last"), negated=True)),
        ('config."learning rate" = 1', Compare(Facet(("config", "learning rate")), "=", 1.0)),
        ("config.a.`b.c`.0 = 'it''s'", Compare(Facet(("config", "a", "b.c", "0")), "=", "it's")),
        ("config.a.5 = 0.5", Compare(Facet(("config", "a", "5")), "=", 0.5)),
        ("config.in NOT IN (1, 'x', false)", In(Facet(("config", "in")), (1.0, "x", False), negated=True)),
        ("status = 'running'", In(Column("status"), (Status.RUNNING,))),
        ("created_at > '2026-01-31'", Compare(Column("created_at"), ">", datetime(2026, 1, 31, tzinfo=UTC))),
        ("duration > 60", Compare(Column("duration"), ">", 60.0)),
    ],
)
def test_a_filter_is_read(text: str, tree: object) -> None:
    assert parse(text) == tree


def test_a_status_is_understood_in_the_callers_words() -> None:
    queue = In(Column("status"), (Status.QUEUED, Status.STARTING))
    assert parse("status = 'SCHEDULED'", vocabulary="mlflow") == queue
    assert parse("status IN ('pending')", vocabulary="wandb") == queue
    with pytest.raises(FilterError, match="word of vessl") as refused:
        parse("status = 'Terminated'")
    assert refused.value.position == 9


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "found the end, expected a field"),
        ("config.lr", 9, "found the end, expected = or !="),
        ("config.lr < ", 12, "expected a text, number, true or false"),
        ("config.lr < 1 config.x = 2", 14, "expected AND or OR or the end"),
        ("(tags = 'a'", 11, r"expected AND or OR or \)"),
        ("tags = 'a", 7, "a text is never closed"),
        ("config.`a = 1", 7, "a quoted name is never closed"),
        ("loss < 1", 0, "there is no field 'loss'; there are status"),
        ("config < 1", 0, "config needs a key"),
        ("metrics.loss < 1", 0, r"a metric is metrics\.<name>\.last"),
        ("created_at > 5", 13, "expected a time in single quotes"),
        ("archived = 1", 11, "expected true or false"),
        ("archived < true", 11, "true and false have no order"),
        ("duration LIKE 'a'", 14, "LIKE compares texts"),
        ("name LIKE 'a\\'", 10, "does not end in its escape sign"),
        ("name = 5", 7, "expected a text in single quotes"),
        ("metrics.a.max = 'x'", 16, "expected a number"),
        ("status < 'running'", 7, "a status is one of several words"),
        ("config.a = 1e999", 11, "a number of 64 bits"),
        ("name = 'a' ; drop table run", 11, "expected a field or a value"),
        ("name = 'a' -- x", 11, "expected"),
        ("tags IN ()", 9, "expected a text, number"),
        ("tags NOT 'a'", 9, "expected IN or LIKE"),
        ("name = 'a\x00'", 7, "without NUL"),
        ("(" * 60 + "archived = true" + ")" * 60, 50, "nested at most 50 deep"),
        (" AND ".join(["archived = true"] * 101), 2_000, "at most 100 comparisons"),
        ("tags IN (" + ",".join(["1"] * 1_001) + ")", 2_009, "at most 1000 values"),
        ("a" * 9_000, 8_192, "at most 8192 characters"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_position(text: str, position: int, message: str) -> None:
    with pytest.raises(FilterError, match=message) as refused:
        parse(text)
    assert refused.value.position == position


def test_sort_keys_are_read() -> None:
    keys = parse_sort("-metrics.val/acc.best, config.`a,b`,name")
    assert keys == (SortKey(ACC, descending=True), SortKey(Facet(("config", "a,b"))), SortKey(Column("name")))
    for text in ("", "-", "name,,id", "name desc", ",".join(["name"] * 9)):
        with pytest.raises(FilterError):
            parse_sort(text)
    with pytest.raises(FilterError):
        parse_field("name = 1")


def test_a_run_has_so_many_facets_and_no_more() -> None:
    config = {f"k{number:05}": number for number in range(MAX_FACETS + 5)}
    facets = changed({}, RunCreated(name="a", session_id="s", mode=Mode.TRACKED, config=config))
    assert len(facets) == MAX_FACETS
    assert changed(facets, RunConfigUpdated(patch={"k00000": None})).get("config.k00000") is None


def test_the_primary_metric_has_one_mode() -> None:
    facets = changed({}, RunPrimaryMetricSet(name="acc", mode="max"))
    assert changed(facets, RunPrimaryMetricSet(name="loss", mode="min")) == {"primary_min": ("loss",)}
