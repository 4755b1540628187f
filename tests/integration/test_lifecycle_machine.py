"""Whatever API, worker, monitor and scheduler do to runs, in whatever order, is what a small model says.

The service is the real one, in this process; the worker is its HTTP calls; the roles are stepped under a clock that the
rules move. Each example has a database of its own.
"""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from events.ids import uuid7
from events.run import NO_RUN, evolve
from projections import runs
from tests import servers
from tests.integration.fleet import worker_beat
from tests.integration.lifecycle import MAX_RUNS, PROJECTS, QUOTA, Model, World
from tests.servers import NatsServer, PostgresServer

# The framework deprecates how routes name what they depend on; the service runs outside the tests' filters elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")

T = TypeVar("T")

ACTIVE = {"starting", "running"}
OVER = {"completed", "failed", "killed"}

PICKS = st.integers(0, MAX_RUNS - 1)


class Lifecycle(RuleBasedStateMachine):
    """Commands on a few runs of two projects that share a quota."""

    make: ClassVar[Any]
    runner: ClassVar[asyncio.Runner]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        """Every example begins with a run whose first attempt was superseded, and with what that may not do."""
        self.world: World = self.make()
        self.models: list[Model] = []
        self.do(self.world.open())
        self.create("tracked", 0)
        self.start(0)
        self.is_taken_over(0)
        self.falls_silent(index=0, former_speaks=True)
        self.comes_back(index=0, stale=True)
        self.everything_is_as_the_model_says()
        self.comes_back(index=0, stale=False)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.do(self._histories())
            self.do(self.world.close())

    async def _histories(self) -> None:
        """Every history is legal, and its fold is the stored state."""
        for model in self.models:
            run_id = UUID(model.id)
            stored = await runs.get(self.world.pool, run_id)
            assert stored is not None
            folded = NO_RUN
            for recorded in await self.world.ledger.read_stream(UUID(model.project), run_id):
                folded = evolve(folded, recorded.event(), recorded.recorded_at)
            assert stored.run == folded

    def pick(self, index: int) -> Model | None:
        return self.models[index % len(self.models)] if self.models else None

    def post(self, model: Model, route: str, *, allowed: bool, **body: Any) -> None:
        answer = self.do(self.world.post(f"/runs/{model.id}/{route}", **body))
        assert answer.status_code == (200 if allowed else 409), f"{route} {vars(model)}: {answer.text}"

    def has_room(self) -> bool:
        return len(self.models) < MAX_RUNS

    def any_over(self) -> bool:
        return any(model.status in OVER and model.epoch for model in self.models)

    def any_crashed(self) -> bool:
        return any(model.status == "crashed" for model in self.models)

    @precondition(has_room)
    @rule(mode=st.sampled_from(["managed", "tracked"]), where=st.integers(0, PROJECTS - 1))
    def create(self, mode: str, where: int) -> None:
        project = self.world.projects[where]
        body = {"command": ["true"]} if mode == "managed" else {}
        answer = self.do(self.world.post(f"/projects/{project}/runs", mode=mode, **body))
        assert answer.status_code == 201, answer.text
        self.models.append(Model(answer.json()["id"], mode, project))

    @precondition(has_room)
    @rule(where=st.integers(0, PROJECTS - 1))
    def ask_for_more_than_the_quota(self, where: int) -> None:
        """One run more than the quota waits, in both projects, and each is claimed."""
        while self.has_room() and len(self.waiting()) <= QUOTA:
            self.create("managed", (where + len(self.models)) % PROJECTS)
        for model in self.waiting():
            self.claim_it(model)

    def waiting(self) -> list[Model]:
        return [model for model in self.models if model.mode == "managed" and model.status == "queued"]

    @rule(index=PICKS)
    def start(self, index: int) -> None:
        if model := self.pick(index):
            allowed = model.mode == "tracked" and model.status in {"queued", "running", "crashed"} and not model.kill
            self.post(model, "start", allowed=allowed, pid=1)
            if allowed:
                model.status, model.epoch = "running", model.epoch + 1

    def taken_over(self) -> list[Model]:
        return [one for one in self.models if one.mode == "tracked" and one.status in {"running", "crashed"}]

    @precondition(taken_over)
    @rule(index=PICKS)
    def is_taken_over(self, index: int) -> None:
        """A new process takes a run over, and whatever the old one says is refused."""
        model = self.taken_over()[index % len(self.taken_over())]
        self.start(self.models.index(model))
        if model.epoch > 1:
            stale = {"epoch": model.epoch - 1}
            points = {"loss": {"step": [1], "value": [0.5]}}
            self.post(model, "heartbeat", allowed=False, **stale)
            self.post(model, "metrics", allowed=False, **stale, seq=1, series=points)
            self.post(model, "logs", allowed=False, **stale, seq=2, lines=[{"text": "still here"}])
            self.post(model, "progress", allowed=False, **stale, done=1)
            self.post(model, "finish", allowed=False, **stale, status="failed")

    @rule(index=PICKS)
    def claim(self, index: int) -> None:
        if model := self.pick(index):
            self.claim_it(model)

    def claim_it(self, model: Model) -> None:
        free = sum(one.holds for one in self.models) < QUOTA
        allowed = model.mode == "managed" and model.status == "queued" and free
        slot = f"cpu:{self.models.index(model)}"
        body = {"worker": self.world.worker, "command_id": str(uuid7()), "slots": [slot]}
        self.post(model, "claim", allowed=allowed, **body)
        if allowed:
            self.post(model, "claim", allowed=True, **body)  # the same again is the same
            model.status, model.epoch, model.holds = "starting", model.epoch + 1, True

    @rule(index=PICKS)
    def report_started(self, index: int) -> None:
        if (model := self.pick(index)) and model.mode == "managed":
            allowed = model.status in ACTIVE and model.epoch > 0
            self.post(model, "report", allowed=allowed, report="started", epoch=model.epoch)
            if allowed:
                model.status = "running"

    @rule(index=PICKS, status=st.sampled_from(["completed", "failed", "killed"]), stale=st.booleans())
    def end(self, *, index: int, status: str, stale: bool) -> None:
        model = self.pick(index)
        if model is None or model.epoch - stale < 1:
            return
        was = model.former if model.status == "crashed" else model.status
        possible = {"completed": {"running"}, "failed": ACTIVE, "killed": ACTIVE}[status]
        ended = model.status in OVER
        allowed = not stale and (ended or was in possible)
        report = {"report": "ended"} if model.mode == "managed" else {}
        route = "report" if model.mode == "managed" else "finish"
        self.post(model, route, allowed=allowed, epoch=model.epoch - stale, status=status, **report)
        if allowed and not ended:
            model.status, model.holds = status, False

    @rule(index=PICKS)
    def kill(self, index: int) -> None:
        if model := self.pick(index):
            allowed = model.status in ACTIVE | {"queued", "crashed"}
            self.post(model, "kill", allowed=allowed, grace_seconds=3_600)
            if model.status in {"queued", "crashed"}:
                model.killed()
            elif allowed:
                model.kill = True

    @rule(index=PICKS)
    def close(self, index: int) -> None:
        if model := self.pick(index):
            allowed = model.status in ACTIVE | {"queued", "crashed"}
            self.post(model, "close", allowed=allowed, reason="it hangs")
            if allowed:
                model.killed()

    @rule(index=PICKS, stale=st.booleans())
    def heartbeat(self, *, index: int, stale: bool) -> None:
        model = self.pick(index)
        if model is None or model.mode == "managed" or model.epoch - stale < 1:
            return
        alive = model.status in ACTIVE | {"crashed"} and not stale
        self.post(model, "heartbeat", allowed=alive, epoch=model.epoch - stale)

    def beating(self, mode: str, but: Model | None = None) -> dict[UUID, int]:
        return {UUID(m.id): m.epoch for m in self.models if m is not but and m.mode == mode and m.status in ACTIVE}

    @rule(index=PICKS, former_speaks=st.booleans())
    def falls_silent(self, *, index: int, former_speaks: bool) -> None:
        """The latest attempt falls silent, whatever the one before it says."""
        model = self.pick(index)
        if model is None or model.status not in ACTIVE:
            return
        for but in (None, model):  # all are heard, and then all but this one
            seconds = 60.0 if but else 0.0
            voices = {mode: self.beating(mode, but) for mode in ("tracked", "managed")}
            if but is not None and former_speaks and model.epoch > 1:
                voices[model.mode][UUID(model.id)] = model.epoch - 1
            self.do(self.world.passes(seconds, voices["tracked"], voices["managed"]))
        if model.kill:
            model.killed()
        elif model.status == "starting":
            model.status, model.holds = "queued", False
        else:
            model.former, model.status = model.status, "crashed"

    def beats(self, model: Model, epoch: int) -> None:
        """This run is heard beside those that are active."""
        voices = {mode: self.beating(mode) for mode in ("tracked", "managed")}
        voices[model.mode][UUID(model.id)] = epoch
        self.do(self.world.passes(1.0, voices["tracked"], voices["managed"]))

    @precondition(any_crashed)
    @rule(index=PICKS, stale=st.booleans())
    def comes_back(self, *, index: int, stale: bool) -> None:
        crashed = [model for model in self.models if model.status == "crashed"]
        model = crashed[index % len(crashed)]
        self.beats(model, model.epoch - stale)
        if not stale:
            model.status, model.holds = model.former, model.mode == "managed"

    @precondition(any_over)
    @rule(index=PICKS)
    def speaks_after_its_end(self, index: int) -> None:
        """Neither a beat that was under way nor a heartbeat brings an ended run back."""
        over = [model for model in self.models if model.status in OVER and model.epoch]
        model = over[index % len(over)]
        self.beats(model, model.epoch)
        self.post(model, "heartbeat", allowed=False, epoch=model.epoch)

    @rule()
    def worker_says_what_it_holds(self) -> None:
        for _ in range(2):
            self.world.scheduler.hear(worker_beat(UUID(self.world.worker), self.beating("managed"), draining=True))
            self.do(self.world.scheduler.step())
        for model in self.models:
            model.holds = model.holds and model.status in ACTIVE

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not getattr(self, "models", None):
            return
        listed = [
            run
            for project in self.world.projects
            for run in self.do(self.world.http.get(f"/projects/{project}/runs")).json()["items"]
        ]
        found = {run["id"]: (run["status"], run["epoch"], run["kill_requested"]) for run in listed}
        wanted = {m.id: (m.status, m.epoch, m.kill and m.status in ACTIVE) for m in self.models}
        assert found == wanted
        usage = self.do(self.world.http.get("/usage")).json()
        assert usage["active_runs"] == sum(model.holds for model in self.models)


def test_api_worker_monitor_and_scheduler_do_what_the_model_says(
    postgres_server: PostgresServer, nats_server: NatsServer, tmp_path: Path
):
    Lifecycle.make = staticmethod(lambda: World(postgres_server, nats_server, tmp_path))
    with asyncio.Runner() as runner:
        Lifecycle.runner = runner
        runner.run(servers.wipe_jetstream(nats_server))
        bounds = settings(
            max_examples=24,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=True,
        )
        run_state_machine_as_test(Lifecycle, settings=bounds)
