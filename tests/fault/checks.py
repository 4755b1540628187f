"""What must hold once everything has healed. Each check names the invariant that it stands for, and what broke it."""

import asyncio
import math
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pyarrow.parquet as pq

from stack.process import ROOT
from tests.api import Json, accepted, eventually
from tests.fault import messages
from tests.fault.cluster import Cluster
from tests.fault.load import Batch, Load, Sender, number
from tests.fault.operations import Violation

SECONDS = 60.0
REPEATED_REQUESTS = 150
SURVIVES = {"run.deleted", "run.purged"}
SETTLED = timedelta(seconds=3)
"""How long after a link is up again the first that is said over it may take."""
BACK = {"run.recovered", "run.started", "run.completed", "run.failed", "run.killed"}

Key = tuple[str, int, str, int]
"""Run, epoch, source, seq."""


def holds(invariant: str, truth: object, seen: object = "") -> None:
    """Raise `Violation` unless an invariant holds."""
    if not truth:
        raise Violation(f"{invariant}: {str(seen)[:2_000]}")


class Checks:
    """The invariants, in order; the first violated one is raised."""

    def __init__(self, cluster: Cluster, load: Load, http: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self.load = load
        self.http = http
        self.project = load.clients.project
        self.history: list[Json] = []
        self.deleted: set[str] = set()
        self.recorded: dict[str, list[Batch]] = {}

    async def run(self, say: Callable[[str], None]) -> None:
        """Check everything."""
        await asyncio.to_thread(self.read)
        for check in (
            self.acknowledged_is_in_the_ledger,
            self.refused_is_not_in_the_ledger,
            self.no_event_of_a_stale_epoch,
            self.nobody_crashed_by_our_own_outage,
            self.whoever_vanished_is_crashed,
            self.readers_catch_up,
            self.every_event_is_published_and_applied_once,
            self.parquet_points_are_the_acknowledged_points,
            self.curves_and_lines_are_what_was_sent,
            self.managed_runs_have_all_their_lines,
            self.repeats_are_answered_alike,
            self.rebuilt_is_live,
            self.the_history_is_proved,
        ):
            began = time.monotonic()
            await check()
            say(f"{time.monotonic() - began:6.1f} s  holds: {check.__name__.replace('_', ' ')}")

    def read(self) -> None:
        """Read the whole history, and see which batches it has."""
        self.history = self.project.events()
        self.deleted = {self.run_of(event) for event in self.history if event["type"] == "run.deleted"}
        found = self.batches()
        self.recorded = {}
        for sender in self.load.senders:
            for batch in sender.batches:
                if (sender.run["id"], *batch.key) in found:
                    self.recorded.setdefault(sender.run["id"], []).append(batch)

    def batches(self) -> Counter[Key]:
        return Counter(
            (self.run_of(event), event["epoch"], event["sender"], event["seq"])
            for event in self.history
            if "seq" in event and event.get("part", 0) == 0
        )

    @staticmethod
    def run_of(event: Json) -> str:
        return str(event["subject"].removeprefix("runs/"))

    def sent(self) -> list[tuple[Sender, Batch]]:
        return [(sender, batch) for sender in self.load.senders for batch in sender.batches]

    # --- the ledger ------------------------------------------------------------------------------------------

    async def acknowledged_is_in_the_ledger(self) -> None:
        """Acknowledged ⊆ ledger, once; positions are gapless."""
        name = "acknowledged ⊆ ledger"
        positions = [event["position"] for event in self.history]
        holds(f"{name}: gapless positions", positions == list(range(1, len(positions) + 1)), positions[-3:])
        ids = Counter(event["id"] for event in self.history)
        holds(f"{name}: every id once", max(ids.values()) == 1, ids.most_common(3))
        found = self.batches()
        for sender, batch in self.sent():
            key = (sender.run["id"], *batch.key)
            if batch.operation.outcome == "ok":
                holds(name, found[key] == 1, f"{batch.operation} is there {found[key]} times")
            holds(f"{name}: no batch twice", found[key] <= 1, f"{batch.operation} is there {found[key]} times")
        known = {(sender.run["id"], *batch.key) for sender, batch in self.sent()}
        managed = {run["id"] for run in self.load.managed.runs}
        others = {key for key in found if key not in known and key[0] not in managed}
        holds(f"{name}: nothing that nobody sent", not others, others)
        types = Counter((self.run_of(event), event["type"]) for event in self.history)
        for life in self.load.lives:
            for lived in life.lived:
                run = lived.run["id"]
                holds(f"{name}: created once", types[run, "run.created"] == 1, run)
                starts = len(lived.attempts)
                holds(f"{name}: started as often as told", types[run, "run.started"] == starts, (run, starts))
                for end in ("completed", "failed", "killed", "deleted"):
                    if lived.end == end:
                        holds(f"{name}: {end}", types[run, f"run.{end}"] == 1, run)
        for steady in self.load.steady:
            done = sum(operation.outcome == "ok" for operation, _ in steady.edits.values())
            edits = types[steady.run["id"], "run.summary_updated"]
            holds(f"{name}: edits", done <= edits <= len(steady.edits), (done, edits, len(steady.edits)))
            shown = accepted(self.project.api.get(f"/runs/{steady.run['id']}"))["summary"]
            holds(f"{name}: the summary", shown == {key: value for key, (_, value) in steady.edits.items()}, shown)

    async def refused_is_not_in_the_ledger(self) -> None:
        """What was refused, and never in doubt, was not recorded."""
        found = self.batches()
        for sender, batch in self.sent():
            if batch.operation.outcome == "fail":
                holds("refused ∩ ledger = ∅", not found[sender.run["id"], *batch.key], batch.operation)

    async def no_event_of_a_stale_epoch(self) -> None:
        """After an attempt has started, no event of an earlier one is recorded."""
        epochs: dict[str, int] = {}
        for event in self.history:
            if "epoch" in event:
                run = self.run_of(event)
                latest = epochs.get(run, 0)
                holds("no event of a stale epoch accepted", event["epoch"] >= latest, (latest, event))
                epochs[run] = event["epoch"]

    async def nobody_crashed_by_our_own_outage(self) -> None:
        """Programs beat all the time; only one that vanished may be declared crashed, and be so for good.

        Fewer than a mass that cannot be heard by anybody are declared as well; they come back when they are heard.
        """
        vanished = {lived.run["id"] for life in self.load.lives for lived in life.lived if lived.end == "vanished"}
        for index, event in enumerate(self.history):
            run = self.run_of(event)
            if event["type"] == "run.crashed" and run not in vanished:
                at = datetime.fromisoformat(event["recordedat"])
                unheard = any(began <= at <= ended + SETTLED for began, ended in self.cluster.unheard)
                holds("no Crashed declared because of our own outage", unheard, event)
                later = {other["type"] for other in self.history[index + 1 :] if self.run_of(other) == run}
                holds("who could not be heard is crashed no longer than that", later & BACK, event)

    async def whoever_vanished_is_crashed(self) -> None:
        """No run hangs in running: who fell silent is declared crashed once we hear again."""

        async def hanging() -> object:
            runs = [lived.run["id"] for life in self.load.lives for lived in life.lived if lived.end == "vanished"]
            shown = {run: accepted(await self.http.get(f"/runs/{run}"))["status"] for run in runs}
            return {run: status for run, status in shown.items() if status != "crashed"} or None

        await settled("no run hangs in running", hanging)
        await asyncio.to_thread(self.read)

    # --- what follows from it ----------------------------------------------------------------------------------

    async def readers_catch_up(self) -> None:
        await settled("relay, projector, archiver and purge catch up", self._behind)
        await asyncio.to_thread(self.read)

    async def _behind(self) -> object:
        ledger = UUID(self.project.id)
        rows = self.cluster.rows
        ((head,),) = await rows("select position from head where ledger_id = $1", ledger)
        relay = await rows("select position from cursor where reader = 'relay' and ledger_id = $1", ledger)
        if [row[0] for row in relay] != [head]:
            return {"relay": relay, "head": head}
        checkpoints = await rows("select * from checkpoint where ledger_id = $1 and position < $2", ledger, head)
        if checkpoints:
            return checkpoints
        purged = await rows(
            "select count(distinct stream) from event where ledger_id = $1 and type = 'run.purged'", ledger
        )
        if purged[0][0] != len(self.deleted):
            return {"purged": purged[0][0], "deleted": len(self.deleted)}
        managed = [UUID(run["id"]) for run in self.load.managed.runs]  # the worker adds figures of its own
        segments = "select kind, sum(rows)::bigint from segment where ledger_id = $1 and run_id <> all($2)"
        found = dict(await rows(f"{segments} group by kind", ledger, managed))
        expected = {"metrics": 0, "logs": 0}
        for run, batches in self.recorded.items():
            if run not in self.deleted:
                expected["metrics"] += sum(len(batch.points) for batch in batches)
                expected["logs"] += sum(len(batch.lines) for batch in batches)
        wanted = {kind: count for kind, count in expected.items() if count}
        return None if found == wanted else {"archived": found, "expected": wanted}

    async def every_event_is_published_and_applied_once(self) -> None:
        """JetStream has every event, and a subscriber that skips what it has passed applies each once, in order."""
        name = "every ledger event published at least once and applied exactly once"
        published = await self.cluster.published(self.project.id)
        for stream, found in published.items():
            positions = [
                event["position"]
                for event in self.history
                if ("seq" in event) == (stream == "TELEMETRY")
                and (self.run_of(event) not in self.deleted or event["type"] in SURVIVES)
            ]
            own = set(positions)
            applied = [one for one in messages.applied(found) if one in own]
            holds(f"{name} ({stream})", applied == positions, sorted(own ^ set(applied))[:20])

    async def parquet_points_are_the_acknowledged_points(self) -> None:
        """The files that the manifest names hold every point and every line once, and no others."""
        name = "Parquet points = unique acknowledged points"
        for run in sorted(set(self.recorded) - self.deleted):
            segments = await self.cluster.rows("select kind, path, rows from segment where run_id = $1", UUID(run))
            points: Counter[tuple[str, int, bytes]] = Counter()
            texts: Counter[str] = Counter()
            for segment in segments:
                table = await asyncio.to_thread(pq.read_table, self.cluster.stack.home.parquet / segment["path"])
                if segment["kind"] == "logs":
                    texts.update(table.column("text").to_pylist())
                else:
                    columns = [table.column(column).to_pylist() for column in ("metric", "step", "value")]
                    points.update((metric, step, bits(value)) for metric, step, value in zip(*columns, strict=True))
            batches = self.recorded[run]
            sent = Counter(
                (metric, step, bits(number(value)))
                for batch in batches
                for (metric, step), value in batch.points.items()
            )
            holds(name, points == sent, (run, (points - sent).most_common(3), (sent - points).most_common(3)))
            lines = Counter(text for batch in batches for text in batch.lines)
            holds(f"{name} (lines)", texts == lines, (run, (texts - lines), (lines - texts)))

    async def curves_and_lines_are_what_was_sent(self) -> None:
        """What the API shows of a run is what was recorded of it."""
        for steady in self.load.steady:
            run = steady.run["id"]
            batches = self.recorded.get(run, [])
            points: dict[str, dict[int, float | str]] = {}
            for batch in batches:
                for (metric, step), value in batch.points.items():
                    points.setdefault(metric, {})[step] = value
            parameters: Any = {"metric": list(points), "buckets": 20_000}
            for curve in accepted(await self.http.get(f"/runs/{run}/chart", params=parameters))["series"]:
                own = points[curve["metric"]]
                shown = dict(zip(curve["x"], curve["last"], strict=True))
                holds("curves show each point once", shown == own and set(curve["count"]) <= {1}, curve["metric"])
            for one in accepted(await self.http.get(f"/runs/{run}/metrics"))["metrics"]:
                own = points[one["name"]]
                finite = [value for value in map(number, own.values()) if not math.isnan(value)]
                said = (one["count"], one["nan_count"], one["last"], number(one["min"]), number(one["max"]))
                true = (len(own), len(own) - len(finite), own[max(own)], min(finite), max(finite))
                holds("summaries come from exactly these points", said == true, (one["name"], said, true))

    async def managed_runs_have_all_their_lines(self) -> None:
        """What programs under a GPU worker printed is there once, in order, however the worker fared."""
        for run in self.load.managed.runs:
            parameters: Any = {"stream": "stdout", "limit": 1_000}
            shown = accepted(await self.http.get(f"/runs/{run['id']}/logs", params=parameters))
            texts = [line["text"] for line in shown["lines"]]
            wanted = [f"line {number}" for number in range(self.load.managed.LINES)]
            holds("a managed run has all its lines once", texts == wanted, (run["name"], texts))

    async def repeats_are_answered_alike(self) -> None:
        """Whoever repeats an acknowledged request is answered as before, and nothing is recorded again."""
        before = self.project.head()
        random_ = self.load.clients.random
        acknowledged = [
            one
            for one in self.load.clients.journal.of(("ok",))
            if not any(run in one.request.url.path or run.encode() in one.content for run in self.deleted)
        ]
        for operation in random_.sample(acknowledged, min(REPEATED_REQUESTS, len(acknowledged))):
            operation.told(await self.http.send(operation.request))  # raises where the answer is another
        after = self.project.head()
        holds("no acknowledged request is recorded again on repeat", before == after, (before, after))

    async def rebuilt_is_live(self) -> None:
        await self._service("rebuilt = live", "rebuild", "--all", "--compare")

    async def the_history_is_proved(self) -> None:
        await self._service("verify", "verify", "--project", self.project.id, "--whole")
        await self._service("verify", "verify", "--organisation", "default", "--whole")

    async def _service(self, invariant: str, *arguments: str) -> None:
        """Run a command of the service as an administrator would."""
        script = f'. "{self.cluster.stack.home.environment}" && exec "$@"'
        command = ["sh", "-c", script, "sh", sys.executable, "-m", "service", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        holds(invariant, done.returncode == 0, f"{done.stdout[-1_500:]}{done.stderr[-1_500:]}")


def bits(value: float) -> bytes:
    """Return a value so that it can be compared: every NaN is one."""
    return b"NaN" if math.isnan(value) else struct.pack("<d", value)


async def settled(invariant: str, wrong: Callable[[], Awaitable[object]]) -> None:
    """Look until nothing is wrong any more. Raises `Violation` past the deadline with what was wrong last."""
    seen: list[object] = []

    async def right() -> bool:
        seen[:] = [await wrong()]
        return seen == [None]

    try:
        await eventually(right, invariant, SECONDS)
    except AssertionError:
        raise Violation(f"{invariant} within {SECONDS:g} s: {seen}") from None
