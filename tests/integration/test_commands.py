"""Commands on runs of a real ledger: repeated, overtaken by others, decided anew."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from events import commands as c
from events import types as t
from events.errors import Erased, Rejected
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger
from projections import runs
from projections.execute import Request, asked_by, execute
from tests.integration.histories import ACTOR, MASTER_KEY, Project, opened_project
from tests.servers import Database


@pytest.fixture
async def project(database: Database) -> AsyncIterator[Project]:
    async with opened_project(database.url) as opened:
        yield opened


def named(body: bytes) -> Request:
    """Return a request that its caller gave a name."""
    return Request(actor=ACTOR, event_id=uuid7(), body=body, named=True, occurred_at=datetime.now(UTC))


async def test_a_named_request_is_gone_once_its_run_is_erased(project: Project) -> None:
    run_id = await project.ended()
    request = named(b"b")
    await execute(project.ledger, project.ledger_id, run_id, c.EditRun(notes="first"), request)
    await project.erased(run_id)
    with pytest.raises(Erased):
        await execute(project.ledger, project.ledger_id, run_id, c.EditRun(notes="first"), request)


async def test_a_named_request_that_overtakes_its_own_copy_is_answered_alike(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, request = await project.ended(), named(b"b")
    edit = c.EditRun(notes="first")
    project.ledger.recent.forget(run_id)  # so that the state is read
    other = Ledger(project.pool, Keyring(MASTER_KEY))  # another process
    get = runs.get
    answers = []

    async def after_the_copy(pool: asyncpg.Pool, run_id: UUID) -> runs.StoredRun | None:
        monkeypatch.setattr(runs, "get", get)
        answers.append(await execute(other, project.ledger_id, run_id, edit, request))
        return await get(pool, run_id)

    monkeypatch.setattr(runs, "get", after_the_copy)
    answers.append(await execute(project.ledger, project.ledger_id, run_id, edit, request))
    assert answers[0] == answers[1]


async def test_a_command_that_meets_another_is_decided_again(project: Project) -> None:
    run_id = await project.started()
    commands = [c.EditRun(notes=f"note {n}") for n in range(12)]
    outcomes = await asyncio.gather(*(project.do(run_id, command) for command in commands))
    assert sorted(outcome.run.version for outcome in outcomes) == list(range(3, 15))
    stored = await runs.get(project.pool, run_id)
    assert stored is not None
    assert stored.run == max(outcomes, key=lambda outcome: outcome.position).run


@pytest.mark.parametrize(
    ("meanwhile", "command", "status"),
    [
        ([c.EditRun(tags=("theirs",))], c.EditRun(tags=("ours",)), t.Status.RUNNING),  # nothing to do, as it was
        ([c.EndRun(epoch=1, status=t.Status.COMPLETED)], c.ArchiveRun(), t.Status.COMPLETED),
        ([c.EndRun(epoch=1, status=t.Status.FAILED)], c.DeleteRun(), t.Status.DELETED),  # refused, as it was
    ],
)
async def test_a_command_knows_what_another_process_did_meanwhile(
    project: Project, meanwhile: list[c.RunCommand], command: c.RunCommand, status: t.Status
) -> None:
    run_id = await project.started()
    await project.do(run_id, c.EditRun(tags=("ours",)))
    elsewhere = Ledger(project.pool, Keyring(MASTER_KEY))
    for other in meanwhile:
        await execute(elsewhere, project.ledger_id, run_id, other, asked_by(ACTOR))
    outcome = await project.do(run_id, command)
    assert outcome.run.status is status
    assert outcome.run.tags == (("ours",) if command == c.EditRun(tags=("ours",)) else outcome.run.tags)
    assert outcome.run.version == 4 + len(meanwhile)
    stored = await runs.get(project.pool, run_id)
    assert stored is not None
    assert stored.run == outcome.run


async def test_a_command_that_another_process_made_impossible_is_refused(project: Project) -> None:
    run_id = await project.started()
    elsewhere = Ledger(project.pool, Keyring(MASTER_KEY))
    await execute(elsewhere, project.ledger_id, run_id, c.EndRun(epoch=1, status=t.Status.COMPLETED), asked_by(ACTOR))
    with pytest.raises(Rejected, match="it has ended already"):
        await project.do(run_id, c.KillRun())
    assert (await project.ledger.read_stream(project.ledger_id, run_id))[-1].type == "run.completed"


async def test_a_named_command_gives_its_first_answer_again(project: Project) -> None:
    run_id = await project.started()
    request = named(b"b")
    first = await execute(project.ledger, project.ledger_id, run_id, c.EditRun(notes="first"), request)
    await project.do(run_id, c.EditRun(notes="second"))
    again = await execute(project.ledger, project.ledger_id, run_id, c.EditRun(notes="first"), request)
    assert again == first
