"""Several connections inside an append at once, moved on one point at a time, in an order that a seed chooses.

A test's copies of append.sql and append_one.sql stop at every `-- point:` line on an advisory lock of their own, which
the conductor holds. It releases one when everybody stands still: at a point, or behind a lock that somebody else has.
Which of several that stand behind one lock goes first is Postgres' choice, so a seed leads to much the same order, not
always the same.
"""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.database import open_pool
from events.errors import Fenced, Rejected, VersionConflict
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Appended, Ledger, Proposal
from events.run_events import RunNotesSet, RunStarted
from events.sql import load
from events.verification import verify
from projections.execute import draft
from tests.integration.histories import ACTOR, MASTER_KEY, Project

ACTORS: Final = 4
STOPS: Final = 40
PATIENCE_SECONDS: Final = 120.0
ALLOWED: Final = (VersionConflict, Fenced, Rejected)

_STOPPING: Final = """
create sequence ledger.stop_0; create sequence ledger.stop_1;
create sequence ledger.stop_2; create sequence ledger.stop_3;
create function ledger.stop() returns void language plpgsql security definer as $$
declare
    v_actor integer := substring(current_setting('application_name') from 'tachograph-actor-(\\d)$')::integer;
    v_count integer;
begin
    if v_actor is not null then
        v_count := nextval(('ledger.stop_' || v_actor)::regclass);  -- not undone with its transaction
        perform pg_advisory_lock(v_actor, v_count);
        perform pg_advisory_unlock(v_actor, v_count);
    end if;
end $$;
"""
_WAITING: Final = """
select substring(a.application_name from '\\d$')::integer as actor,
       case when l.locktype = 'advisory' then l.objid::bigint end as stop, a.pid, pg_blocking_pids(a.pid) as behind
from pg_locks l join pg_stat_activity a on a.pid = l.pid
where not l.granted and a.datname = current_database() and a.application_name like 'tachograph-actor-%'
"""


class Explored(msgspec.Struct, frozen=True):
    """One order that was tried: who was moved on, how often somebody stood behind the head, and what was wrong."""

    order: tuple[int, ...]
    stood_behind: int
    wrong: list[str]


async def install(owner: asyncpg.Connection, *, lock: bool = True) -> None:
    """Put stopping copies of what appends in place, perhaps without the lock on the head."""
    await owner.execute(_STOPPING)
    for name in ("append", "append_one"):
        text, points = re.subn(r"-- point: \w+", "perform ledger.stop();", load("events.sql", name))
        assert points == 5
        if not lock:
            text, locks = re.subn(r"(from ledger\.head h where .*) for update;", r"\1;", text)
            assert locks == 1
        await owner.execute(text)


async def explore(project: Project, url: str, owner: asyncpg.Connection, seed: int) -> Explored:
    """Let actors append in an order of this seed's, and look at what became of the ledger."""
    random_ = random.Random(seed)
    run_id = await project.started()
    before, _ = await project.ledger.head(project.ledger_id)
    scripts = _scripts(project, run_id, random_)
    pools = [await open_pool(url, name=f"actor-{actor}", size=1) for actor in range(len(scripts))]
    ledgers = [Ledger(pool, Keyring(MASTER_KEY)) for pool in pools]
    conductor = await asyncpg.connect(url)
    try:
        for actor in range(len(scripts)):
            await owner.execute(f"alter sequence ledger.stop_{actor} restart")
            for stop in range(1, STOPS + 1):
                await conductor.execute("select pg_advisory_lock($1, $2)", actor, stop)
        acts = [asyncio.create_task(_act(ledger, script)) for ledger, script in zip(ledgers, scripts, strict=True)]
        order, stood_behind = await _conduct(conductor, acts, random_)
        outcomes = [outcome for act in acts for outcome in await act]
    finally:
        await conductor.close()
        for pool in pools:
            await pool.close()
    return Explored(tuple(order), stood_behind, await _wrong(project, before, outcomes))


def _scripts(project: Project, run_id: UUID, random_: random.Random) -> list[list[Proposal]]:
    """Return what each actor appends: edits decided on the same version, a new attempt, and batches, some the same.

    Some are one event, some two, so that both functions meet.
    """
    shared = [project.telemetry(run_id, seq=seq, request=b"same", payloads=[b"part"] * seq) for seq in (1, 2)]
    edits = [_lifecycle(project, run_id, RunNotesSet(notes=f"by {n}"), version=2, epoch=1) for n in range(2)]
    attempt = _lifecycle(project, run_id, RunStarted(epoch=2), RunNotesSet(notes="new"), version=2, epoch=2)
    others = [project.telemetry(run_id, seq=seq) for seq in range(10, 20)]
    scripts = [[edits[0], shared[0]], [shared[0], attempt], [shared[1], edits[1]], [edits[0], shared[1], others[0]]]
    actors = random_.randint(2, ACTORS)
    chosen = random_.sample(scripts, actors)
    return [random_.sample([*script, others[1 + n]], len(script)) for n, script in enumerate(chosen)]


def _lifecycle(project: Project, run_id: UUID, *events: RunNotesSet | RunStarted, version: int, epoch: int) -> Proposal:
    return Proposal(
        ledger_id=project.ledger_id,
        stream=run_id,
        event_id=uuid7(),
        actor=ACTOR,
        occurred_at=datetime.now(UTC),
        drafts=[draft(event) for event in events],
        request=b"r",
        expected_version=version,
        epoch=epoch,
        gate=1,
    )


Outcome = tuple[Proposal, Appended | Exception]


async def _act(ledger: Ledger, script: Sequence[Proposal]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for proposal in script:
        try:
            outcomes.append((proposal, await ledger.append(proposal)))
        except Exception as error:  # noqa: BLE001 (judged by the test)
            outcomes.append((proposal, error))
    return outcomes


async def _conduct(
    conductor: asyncpg.Connection, acts: Sequence[asyncio.Task[list[Outcome]]], random_: random.Random
) -> tuple[list[int], int]:
    """Move one actor on at a time, until all have ended."""
    order: list[int] = []
    stood_behind = 0
    while True:
        waiting = await _standing_still(conductor, acts)
        if not waiting:
            return order, stood_behind
        stopped = {actor: stop for actor, stop in waiting.items() if stop is not None}
        stood_behind += len(waiting) - len(stopped)
        actor = random_.choice(sorted(stopped))
        order.append(actor)
        await conductor.execute("select pg_advisory_unlock($1, $2)", actor, stopped[actor])


async def _standing_still(
    conductor: asyncpg.Connection, acts: Sequence[asyncio.Task[list[Outcome]]]
) -> dict[int, int | None]:
    """Return where each actor that has not ended stands, once all do: the stop, or None behind another one's lock."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        acting = {actor for actor, act in enumerate(acts) if not act.done()}  # who ends later may free others
        rows = {row["actor"]: row for row in await conductor.fetch(_WAITING)}
        stopped = {actor for actor, row in rows.items() if row["stop"] is not None}
        still = {row["pid"] for row in rows.values()}
        if not acting:
            return {}
        if (
            acting == rows.keys()
            and stopped
            and all(actor in stopped or still.issuperset(row["behind"]) for actor, row in rows.items())
        ):
            return {actor: row["stop"] for actor, row in rows.items()}
        await asyncio.sleep(0)
    raise AssertionError("the actors wait for each other, or for nobody")


async def _wrong(project: Project, before: int, outcomes: Sequence[Outcome]) -> list[str]:
    """Say what an append promises and did not hold."""
    wrong = [f"{error!r}" for _, error in outcomes if isinstance(error, Exception) and not isinstance(error, ALLOWED)]
    appended = [(proposal, one) for proposal, one in outcomes if isinstance(one, Appended)]
    fresh = [at for _, one in appended if not one.repeated for at in range(one.position, one.last + 1)]
    head, _ = await project.ledger.head(project.ledger_id)
    if sorted(fresh) != list(range(before + 1, head + 1)):
        wrong.append(f"the positions {sorted(fresh)} are not all between {before} and the head {head}")
    places: dict[UUID, set[int]] = {}
    for proposal, one in appended:
        places.setdefault(proposal.event_id, set()).add(one.position)
    wrong += [f"{event_id} stands at {at}" for event_id, at in places.items() if len(at) != 1]
    winners = {one.position for proposal, one in appended if proposal.expected_version == 2}
    if len(winners) > 1:
        wrong.append(f"version 3 stands at {winners}")
    verification = await verify(project.ledger, project.ledger_id)
    if not verification.verified:
        wrong.append(f"{verification.first_bad}")
    return wrong
