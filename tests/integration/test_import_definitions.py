"""A project's workflows, sweeps and alert rules go out with its archive and come in again, with what links them."""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from events import workflow as recipes
from events.alerts import AlertRuleRemoved, AlertRuleSet, MetricIsNan, WebhookSet
from events.commands import AttachRun, CreateRun
from events.ids import uuid7
from events.organisation import WorkflowCreated
from events.run_events import RunCreated
from events.search_space import Uniform
from events.sweep import Method, SweepCreated, SweepStatus
from events.types import Mode, SweepTrial, WorkflowRef
from projections import subscriptions, sweeps, tenancy, workflows
from projections.execute import asked_by, execute, record
from projections.pack.format import Definition
from service.imports.archive import Archive
from service.imports.definitions import Definer, taken_over
from service.imports.incoming import Unreadable
from service.imports.report import DefinitionReport, RunReport
from tests.integration import importing
from tests.integration.archiving import pack
from tests.integration.telemetry import ACTOR, World, opened_world
from tests.servers import Database

SECRET = "https://hooks.example:8443/T0KEN?a=b"


class Defined:
    """A world with a workflow in two versions, a sweep over it, its trial, a rule and a webhook."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.workflow, self.sweep, self.rule, self.hook, self.run = [uuid7() for _ in range(5)]

    async def fill(self) -> None:
        world, asked = self.world, partial(asked_by, ACTOR)
        await with_organisation(world)
        created = WorkflowCreated(name="train", command=("python", "train.py", "${args}"), secrets=("TOKEN",))
        await workflows.create(world.ledger, world.ledger_id, self.workflow, created, asked())
        await self.change(dataset="first")
        sweep = SweepCreated(
            name="search", workflow=self.workflow, workflow_version=2, method=Method.RANDOM,
            parameters={"lr": Uniform(min=0.0, max=1.0)}, max_runs=3,
        )  # fmt: skip
        await sweeps.create(world.ledger, world.ledger_id, self.sweep, sweep, asked())
        run = RunCreated(
            name="trial", session_id="s", mode=Mode.TRACKED, workflow=WorkflowRef(id=self.workflow, name="train"),
            trial=SweepTrial(sweep=self.sweep, number=1, parameters={"lr": 0.5}),
        )  # fmt: skip
        for command in (CreateRun(created=run), AttachRun()):
            await execute(world.ledger, world.ledger_id, self.run, command, asked())
        await world.end(self.run)
        condition = MetricIsNan(metric="loss")
        rule = AlertRuleSet(
            project=world.ledger_id, name="nan", condition=condition, workflow=self.workflow, run=self.run
        )
        await self.subscribe(self.rule, rule)
        await self.subscribe(self.hook, WebhookSet(project=world.ledger_id, url=SECRET, types=("alert.fired",)))

    async def change(self, **given: Any) -> None:
        decide = partial(recipes.change, given=given)
        await workflows.change(self.world.ledger, self.workflow, decide, asked_by(ACTOR))

    async def subscribe(self, identity: UUID, event: AlertRuleSet | WebhookSet) -> None:
        await record(
            self.world.ledger, ledger_id=self.world.organisation_id, stream=identity, expected_version=0,
            events=[event], inline=subscriptions.row(identity, event, version=1), request=asked_by(ACTOR),
        )  # fmt: skip


async def with_organisation(world: World) -> None:
    await world.ledger.open(world.organisation_id, world.organisation_id, "organisation")


@pytest.fixture
async def defined(world: World) -> Defined:
    made = Defined(world)
    await made.fill()
    return made


async def bring(world: World, path: Path, data: bytes) -> tuple[list[DefinitionReport], list[RunReport]]:
    await asyncio.to_thread(path.write_bytes, data)
    archive = Archive.at(path)
    archive.verify(lambda _done, _total: None)
    definer = await definer_of(world)
    told = [one async for one in taken_over(archive.definitions, definer)]
    return told, await importing.bring(world, archive)


async def definer_of(world: World) -> Definer:
    project = await tenancy.project_by_id(world.pool, world.ledger_id)
    assert project is not None
    return Definer(world.ledger, project)


def outcomes(reports: list[DefinitionReport]) -> dict[str, str]:
    return {report.kind: report.outcome for report in reports}


async def heads(world: World) -> list[Any]:
    return [await world.ledger.head(one) for one in (world.ledger_id, world.organisation_id)]


async def test_what_is_defined_comes_with_its_ids_and_links_and_once(
    defined: Defined, elsewhere: World, tmp_path: Path
) -> None:
    world = defined.world
    data = await pack(world)
    assert SECRET.encode() not in data
    assert b"T0KEN" not in data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["definitions_left_out"] == []
    await with_organisation(elsewhere)
    told, runs = await bring(elsewhere, tmp_path / "p.zip", data)
    assert outcomes(told) == {"workflow": "new", "sweep": "new", "alert_rule": "new", "webhook": "new"}
    assert [one.id for one in told] == [defined.workflow, defined.sweep, defined.rule, defined.hook]
    assert [one.outcome for one in runs] == ["new"]
    before, after = [await workflows.get(one.pool, defined.workflow) for one in (world, elsewhere)]
    assert before is not None
    assert after is not None
    assert after.workflow == before.workflow
    assert after.workflow.version == 2
    sweep = await sweeps.get(elsewhere.pool, defined.sweep)
    assert sweep is not None
    assert (sweep.sweep.status, sweep.sweep.workflow) == (SweepStatus.STOPPED, defined.workflow)
    assert "makes no trials here" in next(one.why for one in told if one.kind == "sweep")
    (trial,) = await sweeps.trials(elsewhere.pool, sweep, 0, 10)
    assert (trial.stored.run_id, trial.number) == (defined.run, 1)
    assert trial.stored.run.trial is not None
    assert trial.stored.run.trial.parameters == {"lr": 0.5}
    (rule,) = await subscriptions.of_project(elsewhere.pool, elsewhere.ledger_id, "alert_rule")
    assert rule.rule() == AlertRuleSet(
        project=elsewhere.ledger_id, name="nan", condition=MetricIsNan(metric="loss"), workflow=defined.workflow,
        run=defined.run,
    )  # fmt: skip
    (hook,) = await subscriptions.of_project(elsewhere.pool, elsewhere.ledger_id, "webhook")
    assert hook.webhook() == WebhookSet(
        project=elsewhere.ledger_id, url="https://hooks.example:8443", types=("alert.fired",), in_force=False
    )
    assert await subscriptions.hooks_in_force(elsewhere.pool, elsewhere.ledger_id) == []
    assert "it sends nothing until its address is given again" in told[-1].why
    assert f"/webhooks/{defined.hook}" in told[-1].why

    at = await heads(elsewhere)
    told, runs = await bring(elsewhere, tmp_path / "p.zip", data)
    assert {*outcomes(told).values(), *(one.outcome for one in runs)} == {"already there"}
    assert await heads(elsewhere) == at
    await defined.change(dataset="second")
    await defined.change(name="train better")
    told, _ = await bring(elsewhere, tmp_path / "p.zip", await pack(world))
    assert outcomes(told) == {
        "workflow": "continued", "sweep": "already there", "alert_rule": "already there", "webhook": "already there",
    }  # fmt: skip
    after = await workflows.get(elsewhere.pool, defined.workflow)
    assert after is not None
    assert (after.workflow.version, after.workflow.name) == (4, "train better")


async def test_folding_what_was_imported_gives_the_same(defined: Defined, elsewhere: World, tmp_path: Path) -> None:
    await with_organisation(elsewhere)
    await bring(elsewhere, tmp_path / "p.zip", await pack(defined.world))
    state = await workflows.get(elsewhere.pool, defined.workflow)
    folded = await workflows.at_version(elsewhere.ledger, elsewhere.ledger_id, defined.workflow, None)
    assert state == folded
    assert await sweeps.get(elsewhere.pool, defined.sweep) == await sweeps.at_version(
        elsewhere.ledger, elsewhere.ledger_id, defined.sweep, None
    )


async def test_beside_the_original_they_get_ids_of_their_own_and_stay_linked(
    defined: Defined, database: Database, tmp_path: Path
) -> None:
    async with opened_world(database.url, tmp_path / "beside" / "parquet") as beside:
        await with_organisation(beside)
        told, (run,) = await bring(beside, tmp_path / "p.zip", await pack(defined.world))
        assert outcomes(told) == {"workflow": "new", "sweep": "new", "alert_rule": "new", "webhook": "new"}
        ids = {one.kind: one.id for one in told}
        assert not {defined.workflow, defined.sweep, defined.rule} & set(ids.values())
        assert run.run_id is not None
        stored = (await beside.stored(run.run_id)).run
        assert stored.workflow is not None
        assert stored.trial is not None
        assert (stored.workflow.id, stored.trial.sweep) == (ids["workflow"], ids["sweep"])
        (rule,) = await subscriptions.of_project(beside.pool, beside.ledger_id, "alert_rule")
        assert rule.rule().workflow == ids["workflow"]
        at = await heads(beside)
        told, _ = await bring(beside, tmp_path / "p.zip", await pack(defined.world))
        assert set(outcomes(told).values()) == {"already there"}
        assert await heads(beside) == at


async def test_a_name_that_is_taken_a_history_that_differs_and_a_rule_that_was_removed(
    defined: Defined, elsewhere: World, tmp_path: Path
) -> None:
    await with_organisation(elsewhere)
    own = uuid7()
    await workflows.create(elsewhere.ledger, elsewhere.ledger_id, own, WorkflowCreated(name="train"), asked_by(ACTOR))
    data = await pack(defined.world)
    told, _ = await bring(elsewhere, tmp_path / "p.zip", data)
    renamed = await workflows.get(elsewhere.pool, defined.workflow)
    assert renamed is not None
    assert renamed.workflow.name == f"train-{defined.workflow.hex[-8:]}"
    assert "its name is taken" in told[0].why
    rule = await subscriptions.get(elsewhere.pool, defined.rule)
    assert rule is not None
    await record(
        elsewhere.ledger, ledger_id=elsewhere.organisation_id, stream=defined.rule, expected_version=1,
        events=[AlertRuleRemoved(project=elsewhere.ledger_id)],
        inline=subscriptions.row(defined.rule, rule.rule(), version=2, removed_at="infinity"), request=asked_by(ACTOR),
    )  # fmt: skip
    at = await heads(elsewhere)
    told, _ = await bring(elsewhere, tmp_path / "p.zip", data)
    assert set(outcomes(told).values()) == {"already there"}
    assert "was removed here" in told[2].why
    assert await heads(elsewhere) == at
    await defined.change(dataset="another way")
    told, _ = await bring(elsewhere, tmp_path / "p.zip", await pack(defined.world))
    assert outcomes(told)["workflow"] == "refused"
    assert "went another way" in told[0].why
    assert await heads(elsewhere) == at


def data_of(definition: Definition, index: int, **fields: Any) -> Definition:
    events = list(definition.events)
    events[index] = replace(events[index], data={**events[index].data, **fields})
    return replace(definition, events=events)


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("workflow", lambda one: replace(one, events=one.events[1:]), "created once, and first"),
        ("workflow", lambda one: data_of(one, 0, name="x" * 300), "name"),
        ("workflow", lambda one: data_of(one, 1, secrets=["not a name"]), "secrets"),
        ("workflow", lambda one: replace(one, kind="sweep"), "nothing that happens to a sweep"),
        ("sweep", lambda one: replace(one, events=one.events * 2), "cannot happen"),
        ("sweep", lambda one: data_of(one, 0, method="guess"), "method"),
        ("sweep", lambda one: replace(one, kind="workflow"), "nothing that happens to a workflow"),
        ("alert_rule", lambda one: replace(one, events=[]), "set once"),
        ("alert_rule", lambda one: data_of(one, 0, condition={"when": "nan", "metric": ""}), "metric"),
        ("webhook", lambda one: data_of(one, 0, in_force=True), "waits for its address"),
        ("webhook", lambda one: data_of(one, 0, url="ftp://hooks.example"), "http or https address"),
        ("webhook", lambda one: data_of(one, 0, types=["run.unheard_of"]), "no type of event"),
    ],
)
async def test_a_bad_definition_is_refused_and_leaves_nothing(
    defined: Defined, elsewhere: World, tmp_path: Path, kind: str, spoil: Callable[[Definition], Definition], said: str
) -> None:
    await with_organisation(elsewhere)
    await asyncio.to_thread((tmp_path / "p.zip").write_bytes, await pack(defined.world))
    archive = Archive.at(tmp_path / "p.zip")
    bad = spoil(next(one for one in archive.definitions() if one.kind == kind))
    at = await heads(elsewhere)
    for definer in (await definer_of(elsewhere), None):
        (report,) = [one async for one in taken_over(lambda: iter([bad]), definer)]
        assert (report.outcome, said in report.why) == ("refused", True), report.why
    assert await heads(elsewhere) == at


async def test_a_line_that_is_no_definition_refuses_the_archive(defined: Defined, tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(await pack(defined.world))) as old, zipfile.ZipFile(made, "w") as new:
        files = {name: old.read(name) for name in old.namelist()}
        files["definitions.jsonl"] += b'{"kind":"moon"}\n'
        manifest = json.loads(files["manifest.json"])
        data = files["definitions.jsonl"]
        manifest["definitions"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        files["manifest.json"] = json.dumps(manifest).encode()
        for name, content in files.items():
            new.writestr(name, content)
    await asyncio.to_thread((tmp_path / "p.zip").write_bytes, made.getvalue())
    with pytest.raises(Unreadable, match=r"a line of definitions\.jsonl cannot be read"):
        Archive.at(tmp_path / "p.zip").verify(lambda _done, _total: None)
