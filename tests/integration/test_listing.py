"""The list of a project's runs: what a filter lets through, in which order, in pages, groups and columns."""

import math
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings

from events import commands as c
from events.database import SETS, open_pool
from events.types import Status, SweepTrial
from projections.rebuild import rebuild
from projections.search import listing as listings
from projections.search import statements
from projections.search.facets import scalar_of
from projections.search.fields import Column, Facet, Field, Known, Metric, value_of
from projections.search.filters import Absent, And, Compare, Filter, In, Like, Not, Or, parse, parse_field
from projections.search.index import Search
from projections.search.listing import Listing
from projections.search.ordering import SortKey, parse_sort
from projections.search.statements import Group, Key, Query
from tests.integration.histories import Project as History
from tests.integration.histories import opened_project, points
from tests.property.filters import FILTERS, NAMES
from tests.servers import Database

NOW = datetime.now(UTC) + timedelta(hours=1)


def held(known: Known, field: Field) -> list[Any]:
    """What of a field is searched in a run: several values of tags, at most one of others."""
    value = value_of(known, field)
    if isinstance(field, Facet):
        values = value if field.parts == ("tags",) else [value]
        scalars = [scalar_of(one) for one in values if not isinstance(one, dict)]
        return [one for one in scalars if one is not None and (one or field.parts[0] in {"config", "summary"})]
    if isinstance(field, Metric) and value is not None:
        value = float(str(value).replace("Infinity", "inf"))
        return [] if math.isnan(value) else [value]
    if isinstance(value, bool) or value is None:
        return [] if value is None else [value]
    if isinstance(value, str):
        return [str(value)]  # a word of ours is compared as the text that it is
    return [float(value) if isinstance(value, int) else value]


def passes(value: Any, tree: Compare | In | Like, known: Known) -> bool:
    match tree:
        case Like():
            return isinstance(value, str) and re.fullmatch(pattern(tree.pattern), value, re.DOTALL) is not None
        case In():
            return any(passes(value, Compare(tree.field, "=", one), known) for one in tree.values)
        case Compare():
            other = tree.value
            if isinstance(tree.field, Facet):
                other = scalar_of(other)
            if type(value) is not type(other) and not (
                isinstance(value, float | int) and isinstance(other, float | int)
            ):
                return isinstance(value, str) and isinstance(other, str) and value == other
            if tree.field == Column("workflow") and tree.operator == "=" and known.run.workflow:
                return other in {value, str(known.run.workflow.id)}
            return {
                "=": value == other,
                "<": value < other,
                "<=": value <= other,
                ">": value > other,
                ">=": value >= other,
            }[tree.operator]


def pattern(like: str) -> str:
    """A LIKE pattern as a regular expression."""
    found, at = "", 0
    while at < len(like):
        sign = like[at]
        if sign == "\\":
            at += 1
            found += re.escape(like[at])
        else:
            found += {"%": ".*", "_": "."}.get(sign, re.escape(sign))
        at += 1
    return found


def holds(tree: Filter, known: Known) -> bool:
    match tree:
        case And():
            return all(holds(part, known) for part in tree.parts)
        case Or():
            return any(holds(part, known) for part in tree.parts)
        case Not():
            return not holds(tree.inner, known)
        case Absent():
            return bool(held(known, tree.field)) == tree.negated
        case _:
            values = held(known, tree.field)
            negated = tree.operator == "!=" if isinstance(tree, Compare) else tree.negated
            if negated:
                plain = Compare(tree.field, "=", tree.value) if isinstance(tree, Compare) else tree
                return bool(values) and not any(passes(value, plain, known) for value in values)
            return any(passes(value, tree, known) for value in values)


# --- against Postgres -------------------------------------------------------------------------------------


async def filled(project: History) -> None:
    """Runs that have some of what the filters of the strategies ask for, and some not."""
    random_ = random.Random(5)
    odd = [
        0.1,
        1,
        -1.0,
        1e300,
        "x",
        "adam",
        "it's",
        "%",
        "",
        True,
        False,
        None,
        [1, 2],
        {"b": 2, "c.d": "x"},
        "ü" * 300,
    ]
    for number in range(40):
        config = {name: random_.choice(odd) for name in random_.sample(NAMES, random_.randrange(len(NAMES)))}
        run_id = await project.started(
            config=config,
            tags=tuple(random_.sample(["a", "b", "x", "it's"], random_.randrange(3))),
            notes=random_.choice(["", "x", "adam"]),
            alias=random_.choice([None, "x", "best"]),
            external_id=random_.choice([None, f"x{number}"]),
            trial=SweepTrial(sweep=UUID(int=number % 2), number=number) if number % 3 else None,
        )
        await project.do(
            run_id, c.EditRun(summary={"acc": random_.choice([0.5, 1, "x", None]), "a": {"b": number % 3}})
        )
        if number % 3:
            await project.log(run_id, points(random_.randrange(1, 5), random_))
        if number % 4:
            mode = random_.choice(["min", "max"])
            await project.do(run_id, c.SetPrimaryMetric(name=random_.choice(["loss", "acc"]), mode=mode))
        if number % 5 == 0:
            patch = {"a": None, "adam": {"b": {"x": 1}}}
            await project.do(run_id, c.EditRun(config=patch))
        if number % 2:
            end = random_.choice([Status.COMPLETED, Status.FAILED, Status.KILLED])
            await project.do(run_id, c.EndRun(epoch=1, status=end))
        if number % 7 == 0:
            await project.do(run_id, c.ArchiveRun())
            await project.do(run_id, c.EditRun(alias="kept"))
        if number % 14 == 0:
            await project.project_all()
            await project.do(run_id, c.ArchiveRun(archived=False))
    await project.project_all()


@asynccontextmanager
async def reading(database: Database, project: History) -> AsyncIterator[Listing]:
    sets = await open_pool(database.url, name="sets", planning=SETS)
    try:
        yield Listing(project.pool, sets)
    finally:
        await sets.close()


async def everything(project: History, listing: Listing) -> list[Known]:
    stored = [one.stored for one in await listing.find(Query(ledger_id=project.ledger_id, now=NOW), limit=1_000)]
    metrics, called = await listings.besides(project.pool, project.ledger_id, stored, ["loss", "acc", "lr"])
    return [
        Known(
            run_id=one.run_id,
            run=one.run,
            workflow=called.get(one.run.workflow.id) if one.run.workflow else None,
            metrics=metrics.get(one.run_id, {}),
            now=NOW,
        )
        for one in stored
    ]


WAYS = (
    (1_000, 2_000, (4_000,)),
    (1_000, 0, (4_000,)),
    (1, 0, (10, 4_000)),
    (1, 8, ()),
    (1, 0, ()),
)
"""How many runs are walked past, looked up, or held as a set: small ones take the ways of large projects."""


async def test_sql_and_python_agree_on_any_filter(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_project(database.url) as project, reading(database, project) as listing:
        await filled(project)
        known = await everything(project, listing)
        assert len(known) == 40
        found = 0

        async def agree(tree: Filter) -> None:
            nonlocal found
            query = Query(ledger_id=project.ledger_id, now=NOW, filter=tree)
            expected = [one.run_id for one in known if holds(tree, one)]
            found += 0 < len(expected) < len(known)
            for walked, few, sets in WAYS:
                monkeypatch.setattr(statements, "WALKED_RUNS", walked)
                monkeypatch.setattr(listings, "FEW_RUNS", few)
                monkeypatch.setattr(listings, "SET_RUNS", sets)
                page = await listing.find(query, limit=50)
                assert [one.key.run_id for one in page] == expected, (tree, walked, few, sets)

        examples: list[Filter] = []

        @settings(max_examples=250, database=None, suppress_health_check=list(HealthCheck))
        @given(FILTERS)
        def collect(tree: Filter) -> None:
            examples.append(tree)

        collect()
        for tree in examples:
            await agree(tree)
        assert found > 30  # not all of them are trivial


async def test_status_workflow_and_archive_narrow_alike_whether_few_or_many_are_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_project(database.url) as project, reading(database, project) as listing:
        await filled(project)
        known = await everything(project, listing)
        workflows = {one.run.workflow.id for one in known if one.run.workflow}
        found = 0
        for statuses in (None, [Status.COMPLETED], [Status.FAILED, Status.RUNNING]):
            for workflow_id in (None, *workflows):
                for archived in (None, True, False):
                    for tree in (None, parse("config.a IS NOT NULL")):
                        expected = [
                            one.run_id
                            for one in known
                            if (statuses is None or one.run.status in statuses)
                            and (workflow_id is None or (one.run.workflow and one.run.workflow.id == workflow_id))
                            and archived in {None, one.run.archived}
                            and (tree is None or holds(tree, one))
                        ]
                        found += 0 < len(expected) < len(known)
                        query = Query(
                            ledger_id=project.ledger_id,
                            now=NOW,
                            statuses=statuses,
                            workflow_id=workflow_id,
                            archived=archived,
                            filter=tree,
                        )
                        for few in (500, 2, 0):
                            monkeypatch.setattr(listings, "NARROW_RUNS", few)
                            seen: list[UUID] = []
                            after: Key | None = None
                            while page := await listing.find(query, after_key=after, limit=3):
                                seen += [one.key.run_id for one in page]
                                after = page[-1].key
                            assert seen == expected, (query, few)
        assert found > 10  # not all of them are trivial


SORTS = (
    "created_at", "-created_at", "config.a", "-config.a", "summary.acc,-name", "-metrics.loss.best",
    "metrics.loss.last", "-metrics.acc.max,config.a",
    "duration", "-ended_at", "tags", "status,-summary.acc,created_at", "-metrics.lr.count",
    "workflow,name", "archived,-external_id", "-sweep,trial", "-metrics.loss.min", "notes,alias",
)  # fmt: skip


def ranks(known: Known, keys: tuple[SortKey, ...]) -> tuple[Any, ...]:
    """A run's place in an order, spelt out: numbers, then texts, then nothing."""
    rank: list[Any] = []
    for key in keys:
        values = held(known, key.field)
        value = values[0] if values else None
        if isinstance(value, datetime):
            value = value.timestamp()
        sides = [value] if not isinstance(key.field, Facet) else [
            value if isinstance(value, float) else None, value if isinstance(value, str) else None
        ]  # fmt: skip
        for side in sides:
            codes: Any = 0 if side is None else [ord(sign) for sign in side] + [-1] if isinstance(side, str) else side
            if key.descending and side is not None:
                codes = [-code for code in codes] if isinstance(codes, list) else -codes
            rank.append((side is None, codes))
    last = keys[-1].descending
    return (*rank, -known.run_id.int if last else known.run_id.int)


async def test_any_order_is_total_and_its_pages_are_the_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_project(database.url) as project, reading(database, project) as listing:
        await filled(project)
        known = await everything(project, listing)
        for text in SORTS:
            keys = parse_sort(text)
            expected = [one.run_id for one in sorted(known, key=lambda one: ranks(one, keys))]
            for tree in (None, parse("name LIKE '%' AND NOT tags = 'nobody has this'")):
                query = Query(ledger_id=project.ledger_id, now=NOW, sort=keys, filter=tree)
                seen: list[Any] = []
                after: Key | None = None
                while page := await listing.find(query, after_key=after, limit=7):
                    seen += [one.key.run_id for one in page]
                    after = page[-1].key
                assert seen == expected, text


async def test_groups_count_every_run_once_for_each_value(database: Database) -> None:
    async with opened_project(database.url) as project, reading(database, project) as listing:
        await filled(project)
        known = await everything(project, listing)
        for text in ("status", "tags", "config.a", "summary.a.b", "workflow", "archived", "metrics.loss.best", "alias"):
            by = parse_field(text)
            for tree, archived in ((None, None), (None, False), (parse("summary.acc IS NOT NULL"), False)):
                query = Query(ledger_id=project.ledger_id, now=NOW, filter=tree, archived=archived)
                counts: dict[Any, int] = {}
                for one in known:
                    if (archived is False and one.run.archived) or (tree is not None and not holds(tree, one)):
                        continue
                    for value in held(one, by) or [None]:
                        counts[value] = counts.get(value, 0) + 1
                groups: list[Group] = []
                while page := await listing.groups(query, by, after_group=groups[-1] if groups else None, limit=2):
                    groups += page
                assert {one.value: one.runs for one in groups} == counts, (text, archived)
                assert len(groups) == len(counts)
                assert [one.runs for one in groups] == sorted((one.runs for one in groups), reverse=True)


async def test_facets_rebuilt_are_the_live_ones_and_go_with_their_run(database: Database) -> None:
    async with opened_project(database.url) as project:
        await filled(project)
        victim = next(iter(project.runs))
        for run_id in project.runs[:3]:
            stored = await project.pool.fetchval("select status from run where run_id = $1", run_id)
            if stored == "running":
                await project.do(run_id, c.EndRun(epoch=1, status=Status.COMPLETED))
        await project.do(victim, c.DeleteRun())
        await project.project_all()
        assert await project.pool.fetchval("select count(*) from run_facet where run_id = $1", victim) == 0
        done = await rebuild(project.ledger, database.owner_url, Search())
        assert done.differences == []
        assert done.rows["run_facet"] > 100
