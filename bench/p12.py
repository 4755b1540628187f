"""P12: lists over 100,000 runs by HTTP, against MLflow's search over 1,000.

Rows are copied into both's tables, ours as the projections' own code makes them: what is measured is reading. MLflow is
asked what is nearest to it: it compares metrics with numbers, but parameters only as texts. It has no groups, so ours
are measured beside the other lists, against the same searches, without a goal. Each asks with other values every time,
a page of 50 runs, over one connection.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID, uuid4

import asyncpg
import msgspec

from bench.client import Client
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged, rounds
from bench.mlflow import DATABASE, Mlflow, MlflowClient, mlflow
from events.ids import uuid7
from events.run import PrimaryMetric, Run
from events.run_events import RunArchived, RunCreated, RunEvent, RunPrimaryMetricSet, RunSummaryUpdated
from events.types import Mode, Status, WorkflowRef
from projections.search import facets
from stack.postgres import Postgres
from stack.system import Stack

RUNS: Final = 100_000
PEER_RUNS: Final = 1_000
ROUNDS: Final = 7
SEARCHES: Final = 12
PAGE: Final = 50
WORKFLOWS: Final = 20
SEED: Final = 20_240_601
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
BEST: Final = "val/acc"
TAGS: Final = ("baseline", "sweep", "smoke", "paper", "nightly")
STATES: Final = (Status.COMPLETED, Status.FAILED, Status.KILLED, Status.RUNNING)
P95_MILLISECONDS: Final = 30.0

Ask = Callable[[random.Random], dict[str, Any]]

GROUPS: Final = "group counts"
OURS: Final[Mapping[str, Ask]] = {
    "by time": lambda _: {},
    "status + workflow": lambda r: {"status": r.choice(STATES), "workflow": f"workflow-{r.randrange(WORKFLOWS)}"},
    "config.lr < x AND summary.acc > y": lambda r: {
        "filter": f"config.lr < {10 ** r.uniform(-5, -1)!r} AND summary.acc > {r.uniform(0.2, 1)!r}"
    },
    "tag": lambda r: {"tag": r.choice([*TAGS, f"rare-{r.randrange(100)}"])},
    "sort by best metric": lambda _: {"sort": f"-metrics.{BEST}.best"},
    GROUPS: lambda r: {"group": r.choice(["status", "workflow", "tags", "config.optimizer.name"])},
}
THEIRS: Final[Mapping[str, Ask]] = {
    "by time": lambda _: {"order_by": ["attributes.start_time DESC"]},
    "status": lambda r: {"filter": f"attributes.status = '{r.choice(['FINISHED', 'FAILED', 'KILLED'])}'"},
    "metrics.lr < x AND metrics.acc > y": lambda r: {
        "filter": f"metrics.lr < {10 ** r.uniform(-5, -1):.12f} AND metrics.acc > {r.uniform(0.2, 1):.12f}"
    },
    "tag": lambda r: {"filter": f"tags.kind = '{r.choice(TAGS)}'"},
    "sort by metric": lambda _: {"order_by": ["metrics.acc DESC"]},
}


def corpus(workflows: list[UUID]) -> Iterator[tuple[UUID, datetime, Run, facets.Facets, float]]:
    """Yield runs with their ids, times, facets, and the greatest value of the metric; the same ones every time."""
    chance = random.Random(SEED)
    for number in range(RUNS):
        config = {
            "lr": 10 ** chance.uniform(-5, -1),
            "batch": chance.choice([32, 64, 128]),
            "optimizer": {"name": chance.choice(["adam", "sgd", "lion"]), "decay": chance.random()},
            "seed": number,
        }
        tags = (*chance.sample(TAGS, 2), *([f"rare-{number // 10 % 100}"] if number % 10 == 0 else []))
        workflow = chance.randrange(WORKFLOWS)
        created = RunCreated(
            name=f"workflow-{workflow}-{number}",
            session_id=str(number),
            mode=Mode.TRACKED,
            config=config,
            tags=tags,
            workflow=WorkflowRef(id=workflows[workflow], name=f"workflow-{workflow}"),
        )
        summary = {"acc": chance.random(), "epochs": 10}
        archived = number % 20 == 0
        told: list[RunEvent] = [created, RunSummaryUpdated(patch=summary), RunPrimaryMetricSet(name=BEST, mode="max")]
        found: facets.Facets = {}
        for event in [*told, RunArchived()] if archived else told:
            found = facets.changed(found, event)
        run = Run(
            status=chance.choices(STATES, [80, 14, 5, 1])[0],
            version=5,
            epoch=1,
            mode=Mode.TRACKED,
            name=created.name,
            session_id=created.session_id,
            workflow=created.workflow,
            config=config,
            summary=summary,
            tags=tags,
            primary_metric=PrimaryMetric(BEST, "max"),
            archived=archived,
        )
        yield uuid7(), START + timedelta(seconds=number), run, found, chance.random()


class Ours:
    """A project of runs, and a client that lists them."""

    def __init__(self, stack: Stack) -> None:
        assert stack.api_key is not None
        self._client = Client(stack.url, stack.api_key)
        self._postgres = stack.postgres
        self.project = UUID(self._client.project(f"p12-{uuid4()}"))
        self._chance = random.Random(SEED)
        self.milliseconds: dict[str, list[float]] = {name: [] for name in OURS}

    async def fill(self) -> None:
        """Copy the runs in."""
        path = f"/projects/{self.project}/workflows"
        workflows = [
            UUID(self._client.ask("POST", path, {"name": f"workflow-{number}"})["id"]) for number in range(WORKFLOWS)
        ]
        rows: list[tuple[Any, ...]] = []
        found: list[tuple[Any, ...]] = []
        summaries: list[tuple[Any, ...]] = []
        for run_id, at, run, held, best in corpus(workflows):
            key = (self.project, run_id)
            ended = None if run.status is Status.RUNNING else at
            workflow_id = run.workflow.id if run.workflow else None
            state = msgspec.msgpack.encode(run)
            row = (run.version, len(rows) + 1, run.name, None, run.status, run.mode, workflow_id, None, 1, False, False)
            rows.append((*key, *row, run.archived, False, at, at, at, None, ended, None, state))
            found += [(*key, *one) for one in facets.rows(held, archived=run.archived)]
            summaries.append((*key, BEST, 100, 0, 0, 100, best / 2, 0, 0.0, 0, best, 50))
        owner = await asyncpg.connect(self._postgres.url("postgres"))
        columns = [
            "ledger_id",
            "run_id",
            "version",
            "position",
            "name",
            "external_id",
            "status",
            "mode",
            "workflow_id",
            "worker_id",
            "epoch",
            "kill_requested",
            "unresponsive",
            "archived",
            "purged",
            "created_at",
            "started_at",
            "status_since",
            "kill_requested_at",
            "ended_at",
            "deleted_at",
            "state",
        ]
        await owner.copy_records_to_table("run", records=rows, columns=columns, schema_name="projection", timeout=120)
        await owner.copy_records_to_table("run_facet", records=found, schema_name="projection", timeout=120)
        await owner.copy_records_to_table("metric_summary", records=summaries, schema_name="projection", timeout=120)
        await owner.execute("vacuum analyze", timeout=120)
        await owner.close()

    async def lists(self) -> Sample:
        """Ask some times for each list whose like MLflow has."""
        return await asyncio.to_thread(self._measure, [name for name in OURS if name != GROUPS])

    async def groups(self) -> Sample:
        """Ask some times for counts by group."""
        return await asyncio.to_thread(self._measure, [GROUPS])

    def _measure(self, names: Sequence[str]) -> Sample:
        watch = Stopwatch()
        for _ in range(SEARCHES):
            for name in names:
                query = urlencode({"limit": PAGE, **OURS[name](self._chance)})
                began = time.perf_counter()
                answer = self._client.ask("GET", f"/projects/{self.project}/runs?{query}")
                self.milliseconds[name].append((time.perf_counter() - began) * 1e3)
                if name != "tag" and not answer["items"] and "filter" not in query:
                    raise Void(f"nothing was found: {query}")
        return watch.sample(SEARCHES * len(names))


class Theirs:
    """An experiment of runs, and a client that searches them."""

    def __init__(self, peer: Mlflow) -> None:
        self._client: MlflowClient = peer.client()
        self._chance = random.Random(SEED)
        self._experiment = ""

    async def fill(self, postgres: Postgres) -> None:
        """Copy the runs into its tables, as it would have written them."""
        self._experiment = self._client.ask("experiments/create", {"name": f"p12-{uuid4()}"})["experiment_id"]
        chance = random.Random(SEED)
        rows, tags, metrics = [], [], []
        for number in range(PEER_RUNS):
            run_id, begins = uuid4().hex, 1_790_000_000_000 + number
            status = chance.choice(["FINISHED", "FAILED", "KILLED"])
            rows.append(
                (run_id, f"run-{number}", status, begins, begins, "active", "/x", int(self._experiment), "bench")
            )
            tags.append(("kind", chance.choice(TAGS), run_id))
            for key, value in (("lr", 10 ** chance.uniform(-5, -1)), ("acc", chance.random())):
                metrics.append((key, value, begins, 1, False, run_id))
        columns = [
            "run_uuid",
            "name",
            "status",
            "start_time",
            "end_time",
            "lifecycle_stage",
            "artifact_uri",
            "experiment_id",
            "user_id",
        ]
        measured = ["key", "value", "timestamp", "step", "is_nan", "run_uuid"]
        owner = await asyncpg.connect(postgres.url("postgres", DATABASE))
        await owner.copy_records_to_table("runs", records=rows, columns=columns)
        await owner.copy_records_to_table("tags", records=tags, columns=["key", "value", "run_uuid"])
        for table in ("metrics", "latest_metrics"):
            await owner.copy_records_to_table(table, records=metrics, columns=measured)
        await owner.execute("vacuum analyze", timeout=120)
        await owner.close()

    async def measure(self) -> Sample:
        """Ask each question once."""
        return await asyncio.to_thread(self._measure)

    def _measure(self) -> Sample:
        watch = Stopwatch()
        for ask in THEIRS.values():
            document = {"experiment_ids": [self._experiment], "max_results": PAGE, **ask(self._chance)}
            self._client.ask("runs/search", document)
        return watch.sample(len(THEIRS))


PEER: Final = f"MLflow search over {PEER_RUNS:,}"

COMPARISONS: Final = (
    Comparison(what=f"list over {RUNS:,} runs", ours="list", against=PEER, unit="lists", goal=10),
    Comparison(what=f"group counts over {RUNS:,} runs", ours=GROUPS, against=PEER, unit="lists", goal=None),
)


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Fill both, then measure."""
    ours = Ours(stack)
    await ours.fill()
    async with mlflow(stack.postgres) as peer:
        theirs = Theirs(peer)
        await theirs.fill(stack.postgres)
        contestants = {"list": ours.lists, GROUPS: ours.groups, PEER: theirs.measure}
        measured = await rounds(contestants, ROUNDS)
    every = [one for times in ours.milliseconds.values() for one in times]
    p95 = _p95(every)
    met = "met" if p95 <= P95_MILLISECONDS else "not met"
    notes = [
        f"p95 of all {len(every):,} lists: {p95:.1f} ms; the goal of at most {P95_MILLISECONDS:g} ms is {met}.",
        *(
            f"{name}: median {statistics.median(times):.1f} ms, p95 {_p95(times):.1f} ms."
            for name, times in ours.milliseconds.items()
        ),
        f"Asked of MLflow: {', '.join(THEIRS)}.",
    ]
    return [judged(comparison, measured) for comparison in COMPARISONS], notes


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]
