"""Filters: text and tree say the same; facets are what the documents hold, however they came about."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from events.merge_patch import merge
from events.run_events import RunConfigUpdated, RunCreated, RunSummaryUpdated
from events.types import Mode
from projections.search.compiled import Parameters, condition
from projections.search.facets import Facets, changed, scalar_of
from projections.search.fields import quoted
from projections.search.filters import Filter, parse
from projections.search.tokens import FilterError
from tests.property.filters import FILTERS, said
from tests.property.strategies import JSON, START, TEXTS


@given(FILTERS)
def test_a_filter_that_is_written_down_reads_the_same(tree: Filter) -> None:
    assert parse(said(tree)) == tree


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(["config.a", "=", "1", "'", "`", '"', "(", ")", "AND", "OR", "NOT", "IN", ",", "<"])
    ).map(" ".join)
)
@example("config.lr = 1; drop table run")
@example("'")
@example("config.`a = 1")
@example("NOT " * 200 + "archived = true")
def test_any_text_is_read_or_refused_with_a_position(text: str) -> None:
    error = None
    try:
        parse(text)
    except FilterError as refused:
        error = refused
    assert error is None or 0 <= error.position <= len(text)


@given(FILTERS)
def test_nothing_that_a_user_wrote_is_in_the_statement(tree: Filter) -> None:
    parameters = Parameters(ledger_id=START, now=START)  # type: ignore[arg-type]
    text = condition(tree, parameters)
    for value in ("it's", "adam", "learning rate", "c.d", "loss", "none.of", "1e+300", "2100"):
        assert value not in text
    assert text.count("(") == text.count(")")


DOCUMENTS = st.dictionaries(TEXTS, JSON, max_size=3)


def leaves(below: str, document: dict[str, Any]) -> Facets:
    found = {}
    for part, value in document.items():
        key = f"{below}.{quoted(part)}".replace("\x00", "\ufffd")
        if isinstance(value, dict):
            found |= leaves(key, value)
        elif (scalar := scalar_of(value)) is not None:
            found[key] = (scalar,)
    return found


@given(DOCUMENTS.map(lambda one: merge({}, one)), st.lists(DOCUMENTS, max_size=4), DOCUMENTS)
def test_facets_follow_merge_patches(
    config: dict[str, Any], patches: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    facets = changed({}, RunCreated(name="a", session_id="s", mode=Mode.TRACKED, config=config, path=""))
    facets = changed(facets, RunSummaryUpdated(patch=summary))
    for patch in patches:
        facets = changed(facets, RunConfigUpdated(patch=patch))
        config = merge(config, patch)
    if all("\x00" not in key for key in facets):
        assert facets == leaves("config", config) | leaves("summary", merge({}, summary))
