"""The ledger on a real Postgres: what an append promises, to each of many callers at once."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from events import codec, run_events
from events import commands as c
from events import types as t
from events.errors import Erased, Fenced, IdReused, LedgerError, NotFound, Rejected, TooLarge, VersionConflict
from events.ids import uuid7
from events.ledger import MAX_EVENT_BYTES, Appended, Draft, Proposal
from events.run import NO_RUN
from events.types import Mode
from events.verification import verify
from projections import runs
from projections.execute import draft
from tests.integration.histories import ACTOR, Project, opened_project, points
from tests.servers import Database


@pytest.fixture
async def project(database: Database) -> AsyncIterator[Project]:
    async with opened_project(database.url) as opened:
        yield opened


def edited(project: Project, run_id: UUID, version: int, *, request: bytes = b"r", notes: str = "n") -> Proposal:
    """Return a lifecycle proposal that was decided on a version."""
    return Proposal(
        ledger_id=project.ledger_id,
        stream=run_id,
        event_id=uuid7(),
        actor=ACTOR,
        occurred_at=datetime.now(UTC),
        drafts=[draft(run_events.RunNotesSet(notes=notes))],
        request=request,
        expected_version=version,
        epoch=1,
        gate=1,
    )


def created(project: Project, run_id: UUID, name: str) -> Proposal:
    """Return the proposal of a run with its inline rows."""
    event = run_events.RunCreated(name=name, session_id="s", mode=Mode.TRACKED)
    _, _, rows = runs.inline_rows(run_id, NO_RUN, [event], ACTOR)
    return Proposal(
        ledger_id=project.ledger_id,
        stream=run_id,
        event_id=uuid7(),
        actor=ACTOR,
        occurred_at=datetime.now(UTC),
        drafts=[draft(event)],
        request=b"r",
        expected_version=0,
        epoch=0,
        inline=rows,
    )


async def test_what_is_appended_is_read_back(project: Project) -> None:
    run_id = await project.started()
    await project.log(run_id, points(5))
    page = await project.ledger.read(project.ledger_id)
    assert [recorded.position for recorded in page] == [1, 2, 3, 4]
    assert [recorded.version for recorded in page] == [1, 1, 2, None]
    assert [type(recorded.event()) for recorded in page[1:3]] == [run_events.RunCreated, run_events.RunStarted]
    assert page[3].event() == points(5)
    assert all(recorded.actor == ACTOR for recorded in page)
    slim = await project.ledger.read(project.ledger_id, payloads=False, types=["run.started"])
    assert [(recorded.position, recorded.payload) for recorded in slim] == [(3, None)]


async def test_the_same_request_again_is_the_same_result(project: Project) -> None:
    run_id = await project.started()
    for proposal in (edited(project, run_id, 2), project.telemetry(run_id, seq=1)):
        first = await project.ledger.append(proposal)
        again = await project.ledger.append(proposal)
        assert not first.repeated
        assert again == Appended(first.position, first.last, first.recorded_at, first.version, repeated=True)


async def test_the_same_id_with_another_request_is_refused(project: Project) -> None:
    run_id = await project.started()
    proposal = edited(project, run_id, 2)
    await project.ledger.append(proposal)
    other = Proposal(**{name: getattr(proposal, name) for name in Proposal.__struct_fields__} | {"request": b"x"})
    with pytest.raises(IdReused):
        await project.ledger.append(other)
    await project.ledger.append(project.telemetry(run_id, seq=1))
    with pytest.raises(IdReused):
        await project.ledger.append(project.telemetry(run_id, seq=1, request=b"x"))


async def test_a_stale_decision_is_refused(project: Project) -> None:
    run_id = await project.started()
    await project.ledger.append(edited(project, run_id, 2))
    for version in (1, 2, 4):
        with pytest.raises(VersionConflict):
            await project.ledger.append(edited(project, run_id, version))


async def outcome(project: Project, proposal: Proposal) -> Appended | Exception:
    """Return what became of a proposal, or why it was refused."""
    try:
        return await project.ledger.append(proposal)
    except LedgerError as error:
        return error


async def test_one_event_is_judged_alone_as_it_is_in_a_group(project: Project) -> None:
    run_id, queued, deleted = await project.started(), await project.create(), await project.ended()
    await project.do(deleted, c.DeleteRun())
    edit, batch = edited(project, run_id, 2), project.telemetry(run_id, seq=1)
    for proposal in (edit, batch):
        await project.ledger.append(proposal)
    judged = [
        (edit, Appended),
        (batch, Appended),
        (edited(project, run_id, 2), VersionConflict),
        (replace(edited(project, run_id, 3), epoch=0), Fenced),
        (project.telemetry(run_id, seq=2, epoch=2), Fenced),
        (project.telemetry(queued, seq=2), Rejected),
        (project.telemetry(deleted, seq=2), Erased),
    ]
    for seq, (proposal, expected) in enumerate(judged, start=10):
        companion = project.telemetry(run_id, seq=seq)
        alone = await outcome(project, proposal)
        beside, together = await asyncio.gather(outcome(project, companion), outcome(project, proposal))
        assert isinstance(alone, expected)
        assert isinstance(beside, Appended)
        assert str(together) == str(alone)


async def test_a_batch_in_parts_is_one_request(project: Project) -> None:
    run_id = await project.started()
    proposal = project.telemetry(run_id, seq=1, payloads=[codec.encode(points(n)) for n in (1, 2, 3)])
    first = await project.ledger.append(proposal)
    assert first.last == first.position + 2
    assert (await project.ledger.append(proposal)).last == first.last


async def test_telemetry_needs_a_run(project: Project) -> None:
    with pytest.raises(NotFound):
        await project.ledger.append(project.telemetry(uuid7(), seq=1))


async def test_telemetry_needs_a_run_that_has_started(project: Project) -> None:
    run_id = await project.create()
    with pytest.raises(Rejected, match="has not started"):
        await project.ledger.append(project.telemetry(run_id, seq=1, epoch=0))


async def test_telemetry_of_another_attempt_is_fenced(project: Project) -> None:
    run_id = await project.started()
    await project.do(run_id, c.AttachRun())
    for epoch in (1, 3):
        with pytest.raises(Fenced, match=rf"epoch {epoch} is not the run.s latest attempt \(2\)"):
            await project.ledger.append(project.telemetry(run_id, seq=1, epoch=epoch))
    await project.ledger.append(project.telemetry(run_id, seq=1, epoch=2))


async def test_telemetry_may_come_late_but_not_to_a_deleted_run(project: Project) -> None:
    run_id = await project.ended()
    await project.ledger.append(project.telemetry(run_id, seq=1))
    await project.do(run_id, c.DeleteRun())
    for seq in (1, 2):
        with pytest.raises(Erased):
            await project.ledger.append(project.telemetry(run_id, seq=seq))


async def test_erasure_takes_the_payloads_and_leaves_the_deletion(project: Project) -> None:
    run_id = await project.ended()
    await project.log(run_id, points(2))
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await project.ledger.erase(project.ledger_id, run_id)
    await project.erased(run_id)
    page = await project.ledger.read(project.ledger_id)
    assert [recorded.type for recorded in page if recorded.payload is not None] == [
        "project.created",
        "run.deleted",
        "run.purged",
    ]
    assert page[-2].event().reason == "asked to"


async def test_a_deletion_is_never_sealed_under_the_key_that_it_destroys(database: Database) -> None:
    """Where a ledger's own first event was never recorded there is no other, so nothing is deleted."""
    async with opened_project(database.url) as bare:
        bare.ledger_id = uuid7()
        await bare.ledger.open(bare.ledger_id, bare.organisation_id, "project")
        run_id = await bare.ended()
        with pytest.raises(NotFound, match="no key of its own"):
            await bare.do(run_id, c.DeleteRun(reason="asked to"))
        stored = await runs.get(bare.pool, run_id)
        assert stored is not None
        assert stored.run.status == "completed"


async def test_too_large_an_event_is_refused_by_its_bound(project: Project) -> None:
    run_id = await project.started()
    with pytest.raises(TooLarge) as refused:
        await project.ledger.append(project.telemetry(run_id, seq=1, payloads=[bytes(MAX_EVENT_BYTES + 1)]))
    assert refused.value.limit == MAX_EVENT_BYTES


async def test_one_callers_failure_is_nobody_elses(project: Project, owner: asyncpg.Connection) -> None:
    run_id = await project.started()
    taken = await project.create(name="taken")
    async with owner.transaction():
        await owner.execute("select 1 from ledger.head for update")  # whatever comes now has to wait, together
        tasks = {
            name: asyncio.create_task(project.ledger.append(proposal))
            for name, proposal in {
                "first": edited(project, taken, 1),
                "name taken": created(project, uuid7(), "taken"),
                "fine": created(project, uuid7(), "free"),
                "stale": edited(project, run_id, 1),
                "telemetry": project.telemetry(run_id, seq=1),
                "fenced": project.telemetry(run_id, seq=2, epoch=7),
            }.items()
        }
        _, waiting = await asyncio.wait(tasks.values(), timeout=0.2)
        assert len(waiting) == len(tasks)
    await asyncio.wait(tasks.values())
    failures = {name: type(task.exception()) for name, task in tasks.items() if task.exception()}
    assert failures == {
        "name taken": asyncpg.UniqueViolationError,
        "stale": VersionConflict,
        "fenced": Fenced,
    }
    assert (await verify(project.ledger, project.ledger_id)).verified


async def test_an_append_outlives_its_connection(project: Project, owner: asyncpg.Connection) -> None:
    run_id = await project.started()
    async with owner.transaction():
        await owner.execute("select 1 from ledger.head for update")
        tasks = [asyncio.create_task(project.ledger.append(project.telemetry(run_id, seq=seq))) for seq in range(5)]
        await asyncio.wait(tasks, timeout=0.2)
        await project.pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = current_user and datname = current_database() and pid <> pg_backend_pid()"
        )
    appended = await asyncio.gather(*tasks)
    assert sorted(one.position for one in appended) == list(range(4, 9))
    assert (await verify(project.ledger, project.ledger_id)).position == 8


@pytest.mark.parametrize("seed", range(3))
async def test_many_callers_at_once_leave_one_gapless_history(project: Project, seed: int) -> None:
    random_ = random.Random(seed)
    run_ids = [await project.started() for _ in range(4)]
    versions = dict.fromkeys(run_ids, 2)
    proposals = []
    for number in range(300):
        run_id = random_.choice(run_ids)
        kind = random_.random()
        if kind < 0.5:
            proposals.append(project.telemetry(run_id, seq=random_.randrange(200), epoch=random_.choice([1, 1, 1, 0])))
        elif kind < 0.7:
            versions[run_id] += 1
            proposals.append(edited(project, run_id, versions[run_id] - random_.choice([1, 1, 1, 2])))
        elif kind < 0.8:
            proposals.append(created(project, uuid7(), f"run {random_.randrange(10)}"))
        elif kind < 0.9 and proposals:
            proposals.append(random_.choice(proposals))
        else:
            proposals.append(project.telemetry(uuid7(), seq=number))
    results = await asyncio.gather(*map(project.ledger.append, proposals), return_exceptions=True)

    page = await project.ledger.read(project.ledger_id, limit=10_000)
    assert [recorded.position for recorded in page] == list(range(1, len(page) + 1))
    at = {recorded.position: recorded for recorded in page}
    for proposal, result in zip(proposals, results, strict=True):
        if isinstance(result, Appended):
            recorded = at[result.position]
            assert recorded.stream == proposal.stream
            assert recorded.recorded_at == result.recorded_at
            assert proposal.seq is not None or recorded.event_id == proposal.event_id
            assert proposal.seq == recorded.seq
        else:
            assert isinstance(result, VersionConflict | Fenced | NotFound | asyncpg.UniqueViolationError)
    appended = [one for one in results if isinstance(one, Appended) and not one.repeated]
    assert sum(one.last - one.position + 1 for one in appended) == len(page) - 9  # what was there before
    names = [recorded.event().name for recorded in page if recorded.type == "run.created"]
    assert len(names) == len(set(names))
    by_stream: dict[UUID, list[int]] = {}
    for recorded in page:
        if recorded.version is not None:
            by_stream.setdefault(recorded.stream, []).append(recorded.version)
    assert all(found == list(range(1, len(found) + 1)) for found in by_stream.values())
    assert (await verify(project.ledger, project.ledger_id)).verified


@pytest.mark.parametrize("table", ["event", "payload", "telemetry", "data_key"])
async def test_the_application_cannot_change_the_record(project: Project, table: str) -> None:
    await project.log(await project.started(), points(1))
    column = {"event": "actor = 'x'", "data_key": "wrapped = ''"}.get(table, "salt = ''")
    for statement in (
        f"update ledger.{table} set {column}",
        f"delete from ledger.{table}",
        f"truncate ledger.{table}",
        f"drop table ledger.{table}",
        f"alter table ledger.{table} rename to gone",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await project.pool.execute(statement)


async def test_two_ledgers_do_not_know_of_each_other(project: Project, database: Database) -> None:
    run_id = await project.started()
    async with opened_project(database.url) as other:
        with pytest.raises(NotFound):
            await other.ledger.append(other.telemetry(run_id, seq=1))
        await other.started()
        assert (await other.ledger.head(other.ledger_id))[0] == 3
    assert (await project.ledger.head(project.ledger_id))[0] == 3


async def test_an_unknown_ledger_is_not_found(project: Project) -> None:
    lost = Project(project.pool)
    with pytest.raises(NotFound):
        await lost.create()
    with pytest.raises(NotFound):
        await lost.ledger.head(lost.ledger_id)


async def test_a_draft_says_what_its_event_says() -> None:
    event = run_events.RunFailed(epoch=3, cause=t.Cause.EXCEPTION)
    assert draft(event) == Draft(type="run.failed", payload=codec.encode(event), cause="exception", epoch=3)
