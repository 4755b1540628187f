"""P11: 10,000 runs that beat every 10 seconds: what that costs, and how soon a silent one is declared.

The whole system runs. The beats are gathered by the API's own `ApiBeats` in this process, so what is charged to the
API is the gathering and sending, not the decoding of HTTP requests. The monitor is charged with all that its process
does more than it did before there were runs, the other roles in it included.
"""

import asyncio
import os
import time
from datetime import datetime
from typing import Final
from uuid import UUID

import psutil

from bench.harness import Result, Void
from events import bus
from events.commands import AttachRun, CreateRun
from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import ProjectCreated
from events.run_events import RunCreated
from events.types import Liveness, Mode
from projections import tenancy
from projections.execute import asked_by, execute, record
from service.liveness import ApiBeats
from stack.system import Stack

RUNS: Final = 10_000
BEAT_SECONDS: Final = 10
LIVENESS: Final = Liveness(beat_seconds=10.0, unresponsive_seconds=25.0, crashed_seconds=30.0)
QUIET_SECONDS: Final = 20.0
MEASURED_SECONDS: Final = 60.0
SILENT: Final = 20
GOAL_CORE: Final = 0.15
AT_ONCE: Final = 64


def _roles() -> psutil.Process:
    """Return the process of the roles."""
    for child in psutil.Process().children(recursive=True):
        if child.cmdline()[-2:] == ["workers", "roles"]:
            return child
    raise Void("there is no process of the roles")


def _cpu(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


async def _open(ledger: Ledger) -> UUID:
    (organisation, *_) = await tenancy.organisations(ledger.pool)
    ledger_id = uuid7()
    await ledger.open(ledger_id, organisation.organisation_id, "project")
    row = tenancy.project_row(
        organisation_id=organisation.organisation_id, version=1, name=f"p11-{ledger_id}", description=""
    )
    await record(
        ledger,
        ledger_id=ledger_id,
        stream=ledger_id,
        expected_version=0,
        events=[ProjectCreated(name="p11")],
        inline=row,
        request=asked_by("bench"),
    )
    return ledger_id


async def _start(ledger: Ledger, ledger_id: UUID, beats: ApiBeats) -> list[UUID]:
    """Start the runs; each beats from then on."""
    run_ids = [uuid7() for _ in range(RUNS)]

    async def some(mine: list[UUID]) -> None:
        for run_id in mine:
            created = RunCreated(name=f"r-{run_id}", session_id="s", mode=Mode.TRACKED, liveness=LIVENESS)
            await execute(ledger, ledger_id, run_id, CreateRun(created=created), asked_by("bench"))
            await execute(ledger, ledger_id, run_id, AttachRun(), asked_by("bench"))
            beats.beat(run_id, 1)

    await asyncio.gather(*(some(run_ids[start::AT_ONCE]) for start in range(AT_ONCE)))
    return run_ids


class Programs:
    """The runs' programs: each beats every ten seconds, spread evenly; some fall silent when told."""

    def __init__(self, beats: ApiBeats, run_ids: list[UUID]) -> None:
        self._beats = beats
        self._run_ids = run_ids
        self.silent: set[UUID] = set()
        self.spoke: dict[UUID, float] = {}

    async def run(self) -> None:
        """Beat until cancelled."""
        parts = BEAT_SECONDS * 10
        began, part = time.monotonic(), 0
        while True:
            for run_id in self._run_ids[part % parts :: parts]:
                if run_id not in self.silent:
                    self._beats.beat(run_id, 1)
                    self.spoke[run_id] = time.time()
            part += 1
            await asyncio.sleep(max(0.0, began + part / 10 - time.monotonic()))


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and return what came of it as notes. Raises `Void` where anything was declared that should not be."""
    pool = await open_pool(stack.postgres.url(), name="bench")
    ledger = Ledger(pool, Keyring.from_file(stack.home.master_key))
    nats = await bus.connect(stack.nats.url("service"), name="bench")
    beats = ApiBeats()
    sending = asyncio.create_task(beats.run(nats))
    try:
        return [], await _measured(ledger, beats)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await ledger.drained()
        await nats.close()
        await pool.close()


async def _measured(ledger: Ledger, beats: ApiBeats) -> list[str]:
    roles = _roles()
    before = _cpu(roles)
    await asyncio.sleep(QUIET_SECONDS)
    quiet = (_cpu(roles) - before) / QUIET_SECONDS
    ledger_id = await _open(ledger)
    run_ids = await _start(ledger, ledger_id, beats)
    programs = Programs(beats, run_ids)
    beating = asyncio.create_task(programs.run())
    try:
        await asyncio.sleep(2 * BEAT_SECONDS)  # until the other roles have caught up with the runs' creation
        position, _ = await ledger.head(ledger_id)
        before, ours, began = _cpu(roles), sum(os.times()[:2]), time.perf_counter()
        await asyncio.sleep(MEASURED_SECONDS)
        seconds = time.perf_counter() - began
        busy = (_cpu(roles) - before) / seconds
        gathering = (sum(os.times()[:2]) - ours) / seconds
        if (await ledger.head(ledger_id))[0] != position:
            raise Void("heartbeats led to rows in the ledger")
        late = await _silence(ledger, ledger_id, programs, run_ids[:: RUNS // SILENT])
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    cost = busy - quiet + gathering
    soon = "met" if max(late) <= 1 else "not met"
    met = "met" if cost <= GOAL_CORE else "not met"
    return [
        (
            f"{RUNS:,} tracked runs beating every {BEAT_SECONDS} s for {seconds:.0f} s: {cost:.1%} of a core "
            f"(goal ≤ 15 %, {met}): monitor {busy - quiet:.1%} ({busy:.1%} for all roles, {quiet:.1%} before the "
            f"runs), gathering, sending in the API {gathering:.1%}, the programs' own loop included; no ledger row."
        ),
        (
            f"{SILENT} of them fell silent: declared {min(late):.2f}–{max(late):.2f} s after their period of "
            f"{LIVENESS.crashed_seconds:.0f} s since their last beat (goal ≤ 1 s, {soon}), "
            "a beat's way through the API counted in; nobody else was declared."
        ),
        "HTTP requests of tracked runs are not in these figures.",
    ]


async def _silence(ledger: Ledger, ledger_id: UUID, programs: Programs, chosen: list[UUID]) -> list[float]:
    """Let some fall silent; return how many seconds after their period each was declared."""
    programs.silent = set(chosen)
    give_up = time.monotonic() + LIVENESS.crashed_seconds + 2 * BEAT_SECONDS
    declared: dict[UUID, datetime] = {}
    while len(declared) < len(chosen) and time.monotonic() < give_up:
        await asyncio.sleep(1)
        rows = await ledger.pool.fetch(
            "select run_id, ended_at from run where ledger_id = $1 and status = 'crashed'", ledger_id
        )
        declared = {row["run_id"]: row["ended_at"] for row in rows}
    if declared.keys() != set(chosen):
        raise Void(f"{len(declared)} runs were declared, {len(chosen)} were silent")
    return [at.timestamp() - programs.spoke[run_id] - LIVENESS.crashed_seconds for run_id, at in declared.items()]
