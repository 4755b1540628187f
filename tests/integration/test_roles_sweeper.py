"""The sweeper, step by step: which trials it makes of which sweeps, whoever dies in between."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from events.codec import METRICS, encode
from events.commands import DeleteRun, EndRun, MarkCrashed, MarkResponsive, ReportStarted
from events.ids import uuid7
from events.ledger import Draft, Proposal
from events.organisation import WorkflowChanged, WorkflowCreated
from events.search_space import Categorical, IntUniform, Parameter, Uniform
from events.sweep import Goal, Method, Objective, SweepCreated, SweepStatus, decide
from events.trials import trial_id
from events.types import Cause, Status
from projections import sweeps, workflows
from projections.apply import advance
from projections.execute import asked_by
from projections.inline import Runs, Tenancy
from projections.metrics import Metrics
from projections.rebuild import rebuild
from projections.sweeps import StoredSweep
from tests.integration.fleet import ACTOR, Fleet, opened_fleet
from tests.integration.telemetry import metric_batch
from tests.servers import Database
from workers.retries import follow
from workers.sweeper import Sweeper

GRID: dict[str, Parameter] = {"lr": Categorical(values=(0.1, 0.2)), "n": IntUniform(min=1, max=2)}


class Search:
    """A fleet with a workflow, its sweeps, and a sweeper that may be replaced at any time."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ledger = fleet.ledger
        self.workflow = uuid7()
        self.sweeper = Sweeper(fleet.ledger)
        self.worker = uuid7()

    async def open(self, **recipe: Any) -> None:
        created = WorkflowCreated(name="digits", command=("train", "${args}"), **recipe)
        await workflows.create(self.ledger, self.fleet.ledger_id, self.workflow, created, asked_by(ACTOR))
        self.worker = await self.fleet.worker("w", slots=100)

    async def sweep(self, method: Method = Method.GRID, **fields: Any) -> UUID:
        sweep_id = uuid7()
        created = SweepCreated(
            name="s",
            workflow=self.workflow,
            workflow_version=1,
            method=method,
            **{"parameters": GRID, "max_runs": 4, **fields},
        )
        await sweeps.create(self.ledger, self.fleet.ledger_id, sweep_id, created, asked_by(ACTOR))
        return sweep_id

    async def ask(self, action: str, sweep_id: UUID) -> None:
        await sweeps.change(self.ledger, sweep_id, lambda sweep: decide(action, sweep), asked_by(ACTOR))

    async def settle(self) -> None:
        """Let the sweeper work until nothing is left to do."""
        while await self.sweeper.step():
            pass

    async def stored(self, sweep_id: UUID) -> StoredSweep:
        found = await sweeps.get(self.fleet.pool, sweep_id)
        assert found is not None
        return found

    async def status(self, sweep_id: UUID) -> SweepStatus:
        return (await self.stored(sweep_id)).sweep.status

    async def trials(self, sweep_id: UUID) -> list[tuple[int, Status]]:
        found = await sweeps.trials(self.fleet.pool, await self.stored(sweep_id), 0, 1_000)
        return [(one.number, one.stored.run.status) for one in found]

    async def start(self, run_id: UUID) -> None:
        run = await self.fleet.claim(run_id, self.worker)
        await self.fleet.do(run_id, ReportStarted(epoch=run.epoch))

    async def end(self, run_id: UUID, status: Status = Status.COMPLETED) -> None:
        run = await self.fleet.run(run_id)
        if run.status is Status.QUEUED:
            await self.start(run_id)
        await self.fleet.do(run_id, EndRun(epoch=1, status=status))

    async def log(self, run_id: UUID, **series: list[float]) -> None:
        """Log metrics, at steps from 0."""
        batch = metric_batch({name: (range(len(values)), values) for name, values in series.items()})
        await self.ledger.append(
            Proposal(
                ledger_id=self.fleet.ledger_id,
                stream=run_id,
                event_id=uuid7(),
                actor=ACTOR,
                occurred_at=datetime.now(UTC),
                drafts=[Draft(type=METRICS, payload=encode(batch))],
                request=run_id.bytes,
                epoch=1,
                source="sdk",
                seq=1,
            )
        )

    async def rebuilt(self, database: Database) -> None:
        """Check that a fold of the whole ledger says what the rows say."""
        for projection in (Runs(), Tenancy()):
            assert (await rebuild(self.ledger, database.owner_url, projection)).differences == []


@pytest.fixture
async def search(database: Database) -> AsyncIterator[Search]:
    async with opened_fleet(database.url, max_active_runs=100) as fleet:
        search = Search(fleet)
        await search.open()
        yield search


async def test_a_grid_is_tried_whole_so_many_at_once_and_then_finished(search: Search, database: Database):
    sweep_id = await search.sweep(concurrency=2)
    await search.settle()
    queued, done = Status.QUEUED, Status.COMPLETED
    assert await search.trials(sweep_id) == [(1, queued), (2, queued)]
    await search.end(trial_id(sweep_id, 1), Status.FAILED)
    await search.settle()
    assert await search.trials(sweep_id) == [(1, Status.FAILED), (2, queued), (3, queued)]
    for number in (2, 3, 4):
        await search.end(trial_id(sweep_id, number))
        await search.settle()
    assert await search.trials(sweep_id) == [(1, Status.FAILED), (2, done), (3, done), (4, done)]
    assert await search.status(sweep_id) is SweepStatus.FINISHED
    runs = [await search.fleet.run(trial_id(sweep_id, number)) for number in range(1, 5)]
    assert [run.config for run in runs] == [
        {"lr": 0.1, "n": 1},
        {"lr": 0.1, "n": 2},
        {"lr": 0.2, "n": 1},
        {"lr": 0.2, "n": 2},
    ]
    assert runs[3].command == ("train", "--lr=0.2", "--n=2")
    assert all(run.name == f"digits-{run.session_id}" for run in runs)
    assert len({run.name for run in runs}) == 4
    await search.rebuilt(database)


async def test_a_sweep_keeps_to_the_recipe_that_it_began_with(search: Search):
    sweep_id = await search.sweep()
    changed = WorkflowChanged(command=("other",))
    await workflows.change(search.ledger, search.workflow, lambda _: (changed,), asked_by(ACTOR))
    await search.settle()
    run = await search.fleet.run(trial_id(sweep_id, 1))
    assert run.command == ("train", "--lr=0.1", "--n=1")
    assert run.workflow is not None
    assert run.workflow.version == 1


async def test_no_trial_is_lost_or_made_twice_by_sweepers_that_come_and_go_or_work_at_once(search: Search):
    ids = [
        await search.sweep(Method.RANDOM, parameters={"x": Uniform(min=0, max=1)}, max_runs=6, concurrency=3, seed=seed)
        for seed in (1, 2)
    ]
    for _ in range(30):
        search.sweeper = Sweeper(search.ledger)
        await asyncio.gather(*(one.step() for one in (search.sweeper, Sweeper(search.ledger), Sweeper(search.ledger))))
        for sweep_id in ids:
            trials = await search.trials(sweep_id)
            opened = [number for number, status in trials if status is Status.QUEUED]
            assert len(opened) <= 3
            if opened:
                await search.end(trial_id(sweep_id, opened[0]))
    found = {}
    for sweep_id in ids:
        assert await search.status(sweep_id) is SweepStatus.FINISHED
        assert await search.trials(sweep_id) == [(number, Status.COMPLETED) for number in range(1, 7)]
        runs = [await search.fleet.run(trial_id(sweep_id, number)) for number in range(1, 7)]
        assert len({run.config["x"] for run in runs}) == 6
        found[sweep_id] = [run.config["x"] for run in runs]
    assert found[ids[0]] != found[ids[1]]


async def test_pause_and_stop_leave_runs_alone_and_resume_goes_on(search: Search):
    sweep_id = await search.sweep(concurrency=2)
    await search.settle()
    await search.start(trial_id(sweep_id, 1))
    await search.ask("pause", sweep_id)
    await search.settle()
    assert await search.trials(sweep_id) == [(1, Status.RUNNING), (2, Status.QUEUED)]
    await search.end(trial_id(sweep_id, 1))
    await search.settle()
    assert len(await search.trials(sweep_id)) == 2, "nothing is made while it is paused"
    await search.ask("resume", sweep_id)
    await search.settle()
    assert [number for number, _ in await search.trials(sweep_id)] == [1, 2, 3]
    await search.start(trial_id(sweep_id, 2))
    await search.ask("stop", sweep_id)
    await search.end(trial_id(sweep_id, 3))
    await search.settle()
    expected = [(1, Status.COMPLETED), (2, Status.RUNNING), (3, Status.COMPLETED)]
    assert await search.trials(sweep_id) == expected
    assert (await search.fleet.run(trial_id(sweep_id, 2))).kill is None
    assert await search.status(sweep_id) is SweepStatus.STOPPED


async def test_only_a_cancellation_kills_also_what_comes_back_later(search: Search, database: Database):
    sweep_id = await search.sweep(concurrency=3)
    other = await search.sweep(concurrency=1)
    await search.settle()
    queued, running, crashed = [trial_id(sweep_id, number) for number in (3, 1, 2)]
    for run_id in (running, crashed):
        await search.start(run_id)
    lost = MarkCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0)
    await search.fleet.do(crashed, lost)
    await search.ask("cancel", sweep_id)
    await search.settle()
    killed = await search.fleet.run(queued)
    assert (killed.status, killed.cause) == (Status.KILLED, Cause.SWEEP_CANCELLED)
    asked = (await search.fleet.run(running)).kill
    assert asked is not None
    assert asked.cause is Cause.SWEEP_CANCELLED
    assert (await search.fleet.run(crashed)).status is Status.CRASHED
    await search.fleet.do(crashed, MarkResponsive(epoch=1, silence_seconds=60.0))
    await search.settle()
    assert (await search.fleet.run(crashed)).kill is not None
    assert await search.trials(other) == [(1, Status.QUEUED)]
    assert len(await search.trials(sweep_id)) == 3
    await search.rebuilt(database)


async def test_a_trial_under_way_when_its_sweep_is_paused_is_not_made(search: Search):
    sweep_id = await search.sweep()
    (due,) = await sweeps.due(search.fleet.pool, UUID(int=0), 10)
    await search.ask("pause", sweep_id)
    assert await search.sweeper._advance(due) == 0
    assert await search.trials(sweep_id) == []


async def test_a_deleted_trial_keeps_its_number(search: Search, database: Database):
    sweep_id = await search.sweep(max_runs=2)
    await search.settle()
    await search.end(trial_id(sweep_id, 1))
    await search.fleet.do(trial_id(sweep_id, 1), DeleteRun())
    await search.settle()
    assert await search.trials(sweep_id) == [(1, Status.DELETED), (2, Status.QUEUED)]
    run = await search.fleet.run(trial_id(sweep_id, 1))
    assert run.trial is not None
    assert (run.trial.number, run.trial.parameters, run.config) == (1, {}, {})
    await search.rebuilt(database)


async def test_a_trial_that_is_tried_again_is_one_trial(database: Database):
    async with opened_fleet(database.url, max_active_runs=100) as fleet:
        search = Search(fleet)
        await search.open(retries=1)
        sweep_id = await search.sweep(max_runs=2)
        await search.settle()
        first = trial_id(sweep_id, 1)
        await search.start(first)
        await fleet.do(first, EndRun(epoch=1, status=Status.FAILED, exit_code=1))
        await search.settle()
        assert await search.trials(sweep_id) == [(1, Status.FAILED)], "it is to be tried again"
        assert await follow(fleet.ledger, ACTOR) == 1
        await search.settle()
        assert await search.trials(sweep_id) == [(1, Status.QUEUED)]
        again = (await fleet.run(first)).retried_by
        assert again is not None
        assert (await fleet.run(again)).trial == (await fleet.run(first)).trial
        await search.end(again)
        await search.settle()
        assert await search.trials(sweep_id) == [(1, Status.COMPLETED), (2, Status.QUEUED)]


async def test_a_bayesian_search_waits_until_it_is_known_what_its_trials_came_to(search: Search):
    space: dict[str, Parameter] = {"x": Uniform(min=0, max=1), "kind": Categorical(values=("a", "b"))}
    loss = Objective(name="loss", goal=Goal.MIN)
    sweep_id = await search.sweep(Method.BAYES, parameters=space, metric=loss, max_runs=30, seed=1)
    await search.settle()
    tried = []
    for number in range(1, 31):
        run_id = trial_id(sweep_id, number)
        parameters = (await search.fleet.run(run_id)).config
        tried.append(parameters["x"])
        await search.start(run_id)
        await search.log(run_id, loss=[5.0, abs(parameters["x"] - 0.25), 6.0])
        await search.end(run_id)
        await search.settle()
        assert len(await search.trials(sweep_id)) == number, "what it came to is not counted yet"
        while await advance(search.ledger, Metrics(), search.fleet.ledger_id):
            pass
        await search.settle()
    assert await search.status(sweep_id) is SweepStatus.FINISHED
    assert sum(abs(x - 0.25) < 0.15 for x in tried[15:]) >= 8, tried
    best = await sweeps.best(search.fleet.pool, await search.stored(sweep_id))
    assert best is not None
    assert best.number == 1 + min(range(30), key=lambda index: abs(tried[index] - 0.25))
    assert (best.value, best.step) == (min(abs(x - 0.25) for x in tried), 1)
