"""The list of a project's runs: what a filter lets through, in which order, in pages, groups and columns."""

import math
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

from events import commands as c
from events.database import SETS, open_pool
from events.types import Status, SweepTrial
from projections import listing as listings
from projections.facets import scalar_of
from projections.fields import Column, Facet, Field, Known, Metric, value_of
from projections.filters import Absent, And, Compare, Filter, In, Like, Not, Or, parse, parse_field
from projections.listing import Group, Key, Listing, Query
from projections.ordering import SortKey, parse_sort
from projections.rebuild import rebuild
from projections.search import Search
from tests.api import Api, Project, accepted, refused, serving, until
from tests.integration.histories import Project as History
from tests.integration.histories import opened_project, points
from tests.property.filters import FILTERS, NAMES
from tests.servers import Database, NatsServer, PostgresServer

NOW = datetime.now(UTC) + timedelta(hours=1)


# --- the same tree, evaluated in plain Python -------------------------------------------------------------


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
    await project.project_all()


@asynccontextmanager
async def reading(database: Database, project: History) -> AsyncIterator[Listing]:
    sets = await open_pool(database.url, name="sets", planning=SETS)
    try:
        yield Listing(project.pool, sets)
    finally:
        await sets.close()


async def everything(project: History, listing: Listing) -> list[Known]:
    keys = await listing.find(Query(ledger_id=project.ledger_id, now=NOW), limit=1_000)
    stored = await listing.runs(keys)
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
            for walked, few in ((2_000, 4_000), (1, 4_000), (1, 8), (1, 0)):
                monkeypatch.setattr(listings, "WALKED_RUNS", walked)
                monkeypatch.setattr(listings, "FEW_RUNS", few)
                keys = await listing.find(query, limit=50)
                assert [key.run_id for key in keys] == expected, (tree, walked, few)

        examples: list[Filter] = []

        @settings(max_examples=250, database=None, suppress_health_check=list(HealthCheck))
        @given(FILTERS)
        def collect(tree: Filter) -> None:
            examples.append(tree)

        collect()
        for tree in examples:
            await agree(tree)
        assert found > 30  # not all of them are trivial


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
                    seen += [key.run_id for key in page]
                    after = page[-1]
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


# --- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    with serving(postgres_server, nats_server, servers_home, roles=("projector",)) as api:
        yield api


def names(project: Project, **parameters: Any) -> list[str]:
    found = accepted(project.api.get(f"/projects/{project.id}/runs", params=parameters))["items"]
    return [one["name"] for one in found]


@pytest.fixture(scope="module")
def project(api: Api) -> Project:
    """Six runs of two workflows that are already searchable."""
    project = api.project()
    for name in ("digits", "words"):
        accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": name}), 201)
    for number in range(6):
        body = {
            "name": f"r{number}", "mode": "tracked", "workflow": "digits" if number < 4 else "words",
            "config": {"lr": 10.0**-number, "net": {"depth": number}}, "tags": ["even"] if number % 2 == 0 else ["odd"],
        }  # fmt: skip
        run = project.started(**body)
        accepted(project.log(run, 1, {"acc": {"step": [1, 2], "value": [number / 10, number / 20]}}), 202)
        accepted(api.client.post(f"/runs/{run['id']}/primary-metric", json={"name": "acc", "mode": "max"}))
        accepted(api.client.patch(f"/runs/{run['id']}", json={"summary": {"acc": number / 10}}))
        if number % 3 == 0:
            accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
        if number == 5:
            accepted(api.client.post(f"/runs/{run['id']}/archive"))
    until(lambda: len(names(project, filter="metrics.acc.best >= 0 AND summary.acc >= 0", archived="any")) == 6, "seen")
    return project


def test_runs_are_filtered_sorted_and_cut_over_http(project: Project) -> None:
    assert names(project) == ["r4", "r3", "r2", "r1", "r0"]
    assert names(project, archived="true") == ["r5"]
    assert names(project, filter="archived = true") == ["r5"]
    assert names(project, archived="any", tag="odd") == ["r5", "r3", "r1"]
    assert names(project, filter="config.lr < 0.05 AND summary.acc > 0.25") == ["r4", "r3"]
    assert names(project, filter="config.net.depth IN (1, 2)", sort="name") == ["r1", "r2"]
    assert names(project, sort="-metrics.acc.best", limit=2) == ["r4", "r3"]
    assert names(project, workflow="words", archived="any", sort="metrics.acc.last") == ["r4", "r5"]
    assert names(project, filter="workflow = 'digits' AND NOT tags = 'even'") == ["r3", "r1"]
    assert names(project, status="FINISHED", **{"as": "mlflow"}) == ["r3", "r0"]
    assert names(project, filter="status != 'running'", **{"as": "wandb"}) == ["r3", "r0"]
    shown = accepted(project.api.get(f"/projects/{project.id}/runs", params={"as": "mlflow", "sort": "name"}))["items"]
    assert [one["status"] for one in shown] == ["FINISHED", "RUNNING", "RUNNING", "FINISHED", "RUNNING"]
    one = accepted(project.api.get(f"/runs/{shown[1]['id']}", params={"as": "finetuner"}))
    assert one["status"] == "STARTED"


def test_chosen_columns_come_instead_of_whole_runs(project: Project) -> None:
    columns = "name,status,config.net,metrics.acc.best,metrics.acc.last,workflow,tags,config.none,duration"
    path = f"/projects/{project.id}/runs"
    row = accepted(project.api.get(path, params={"columns": columns, "sort": "name", "as": "vessl"}))["items"][3]
    assert row.pop("duration") >= 0
    assert row.pop("id")
    assert row == {
        "name": "r3", "status": "Completed", "config.net": {"depth": 3}, "metrics.acc.best": 0.3,
        "metrics.acc.last": 0.15, "workflow": "digits", "tags": ["odd"], "config.none": None,
    }  # fmt: skip


def test_groups_have_counts_and_pages(project: Project) -> None:
    path = f"/projects/{project.id}/runs"

    def groups(**parameters: Any) -> list[tuple[Any, int]]:
        return [(one["value"], one["runs"]) for one in accepted(project.api.get(path, params=parameters))["items"]]

    assert groups(group="workflow") == [("digits", 4), ("words", 1)]
    assert groups(group="tags", archived="any") == [("even", 3), ("odd", 3)]
    assert groups(group="status", **{"as": "wandb"}) == [("running", 3), ("finished", 2)]
    assert groups(group="config.net.depth", filter="config.net.depth > 2") == [(3.0, 1), (4.0, 1)]
    first = accepted(project.api.get(path, params={"group": "config.net.depth", "limit": 2}))
    second = accepted(
        project.api.get(path, params={"group": "config.net.depth", "limit": 9, "cursor": first["next_cursor"]})
    )
    assert [one["value"] for one in [*first["items"], *second["items"]]] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_pages_of_a_sorted_list_follow_their_links(project: Project) -> None:
    path, seen = f"/projects/{project.id}/runs", []
    answer = project.api.get(path, params={"sort": "tags,-summary.acc", "limit": 2, "filter": "config.lr > 0"})
    while True:
        seen += [one["name"] for one in accepted(answer)["items"]]
        if "next" not in answer.links:
            break
        answer = project.api.get(httpx.URL(str(project.api.base_url)).join(answer.links["next"]["url"]))
    assert seen == ["r4", "r2", "r0", "r3", "r1"]


INJECTIONS = (
    "' OR 1=1 --", "x'; DROP TABLE projection.run; --", "1) OR (1=1", "name = 'a' UNION SELECT * FROM ledger.data_key",
    "config.`a'; delete from run; --` = 1 OR", "$1", "pg_sleep(10) = 1", "name = 'a' /* */", "config.a = (select 1)",
)  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_injections_are_refused_with_a_position(project: Project, text: str) -> None:
    problem = refused(project.api.get(f"/projects/{project.id}/runs", params={"filter": text}), 422)
    (error,) = problem["errors"]
    assert error["path"] == "filter"
    assert isinstance(error["position"], int)
    for parameter in ("sort", "group", "columns"):
        problem = refused(project.api.get(f"/projects/{project.id}/runs", params={parameter: text}), 422)
        assert problem["errors"][0]["path"] == parameter


@pytest.mark.parametrize("value", ["'; drop table run; --", "a' or 'a'='a", "%';select pg_sleep(9)--", "\\"])
def test_hostile_values_are_only_values(project: Project, value: str) -> None:
    quoted = value.replace("'", "''")
    for field in ("name", "config.`" + value.replace("`", "``") + "`", "workflow", "external_id", "tags"):
        assert names(project, filter=f"{field} = '{quoted}' OR {field} IN ('{quoted}', 'b')") == []
    assert names(project, tag=value) == []
    assert names(project, sort="config.`" + value.replace("`", "``") + "`,name") == ["r0", "r1", "r2", "r3", "r4"]


def test_what_cannot_be_listed_says_why(project: Project) -> None:
    path = f"/projects/{project.id}/runs"

    def problem(**parameters: Any) -> dict[str, Any]:
        return refused(project.api.get(path, params=parameters), 422)

    assert "wandb, mlflow" in problem(**{"as": "kubeflow"})["detail"]
    assert "word of mlflow" in problem(status="SCHEDULED")["detail"]
    assert problem(archived="maybe")["errors"]
    assert "no workflow" in problem(workflow="nothing")["detail"]
    cursor = accepted(project.api.get(path, params={"limit": 1}))["next_cursor"]
    assert "another order" in problem(cursor=cursor, sort="name")["detail"]
    for forged in ("x", "AAAA", cursor[:-4], "lZLA"):
        assert problem(cursor=forged)["errors"][0]["path"] == "cursor"


def test_a_new_run_is_in_the_list_at_once(api: Api) -> None:
    project = api.project()
    for _ in range(5):
        run = project.create()
        assert names(project)[0] == run["name"]
        accepted(api.client.post(f"/runs/{run['id']}/kill"))
        assert names(project, status="killed", sort="-created_at")[0] == run["name"]


def test_a_refusal_says_state_request_and_the_way_out(api: Api, project: Project) -> None:
    run = project.started()
    problem = refused(api.client.delete(f"/runs/{run['id']}"), 409)
    assert (problem["state"], problem["asked"]) == ("running", "delete")
    assert problem["allowed"] == ["monitor", "kill", "reproduce"]
    assert "kill it, wait until it is killed, then delete it" in problem["detail"]
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    accepted(api.client.delete(f"/runs/{run['id']}"))
    problem = refused(api.client.post(f"/runs/{run['id']}/kill"), 410)
    assert (problem["state"], problem["allowed"]) == ("deleted", ["view transitions"])
    assert problem["asked"].endswith("/kill")
