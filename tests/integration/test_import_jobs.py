"""Import jobs one step at a time: what waits, what is given up, and who goes on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pytest

from events.ids import uuid7
from projections import import_jobs
from projections.import_jobs import ImportJob
from projections.storage.artifact_limits import Limits
from projections.storage.artifacts import PART_BYTES
from projections.storage.objects import StoreUnavailable
from projections.storage.uploads import Uploads
from service.imports import carrier, jobs
from service.imports.carrier import Carrier
from service.imports.jobs import Apart, Jobs, report_of
from stack.ports import free_port
from tests.api import SECONDS, eventually
from tests.integration.archiving import environment_of, eventful, pack
from tests.integration.telemetry import ACTOR, World
from tests.servers import Database


def runner(world: World) -> Jobs:
    """Return what carries imports out within this process."""
    return Jobs(world.pool, Carrier(world.ledger, world.objects, Uploads(world.ledger, world.objects, Limits())).carry)


async def uploaded(world: World, data: bytes) -> UUID:
    """Have an archive wait for its import."""
    import_id = uuid7()
    job = await import_jobs.reserve(
        world.ledger, world.ledger_id, world.organisation_id, import_id, len(data), ACTOR, Limits(), dry_run=False
    )

    async def body():
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    await Uploads(world.ledger, world.objects, Limits()).receive(job.upload, 0, body())
    await import_jobs.queue(world.pool, import_id)
    return import_id


async def state(world: World, import_id: UUID) -> ImportJob:
    found = await import_jobs.find(world.pool, world.ledger_id, import_id)
    assert found is not None
    return found


async def due(world: World) -> None:
    """Let time pass until nothing waits or is held any more."""
    await world.pool.execute("update operation.import_job set held_until = now()")


async def attempts(world: World) -> int:
    count: int = await world.pool.fetchval("select attempts from operation.import_job")
    return count


async def test_an_import_waits_while_the_store_is_away(
    world: World, elsewhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    get = world.objects.get

    async def away(path: str) -> bytes:
        raise StoreUnavailable("nobody is there")

    monkeypatch.setattr(world.objects, "get", away)
    for _ in range(carrier.MOST_ATTEMPTS + 2):
        assert await runner(world).step()
        assert ((await state(world, import_id)).state, await attempts(world)) == ("waiting", 0)
        assert not await runner(world).step()
        await due(world)
    monkeypatch.setattr(world.objects, "get", get)
    assert await runner(world).step()
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, report.counts) == ("finished", {"new": 2})


async def test_an_import_that_fails_again_and_again_is_given_up(
    world: World, elsewhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))

    async def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(carrier._Work, "carry_out", broken)
    for _ in range(carrier.MOST_ATTEMPTS):
        assert (await state(world, import_id)).state == "waiting"
        assert await runner(world).step()
        await due(world)
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, report.why) == ("failed", "it failed 5 times, at last with RuntimeError")
    assert not await runner(world).step()


async def test_an_import_that_needs_too_much_memory_fails_at_once(
    world: World, elsewhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))

    def hungry(*_: object) -> None:
        raise pa.lib.ArrowMemoryError("malloc of size 1 failed")

    monkeypatch.setattr("service.imports.archive._folded", hungry)
    assert await runner(world).step()
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, report.why) == ("failed", "it takes more memory than an import may have")


async def test_an_import_that_kills_its_process_is_given_up(world: World, elsewhere: World) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    for _ in range(carrier.MOST_ATTEMPTS):  # claimed, and never heard of again
        assert await import_jobs.claim(world.pool, uuid7()) is not None
        assert await import_jobs.claim(world.pool, uuid7()) is None
        await due(world)
    assert await runner(world).step()
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, "was given up" in report.why) == ("failed", True)
    assert await world.pool.fetchval("select count(*) from operation.upload") == 0


async def test_an_import_that_is_given_up_while_it_is_carried_out_stops(
    world: World, elsewhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    monkeypatch.setattr(carrier, "SAY_SECONDS", 0.01)
    begun = asyncio.Event()

    async def waiting(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(carrier._Work, "carry_out", waiting)
    step = asyncio.create_task(runner(world).step())
    await begun.wait()
    await import_jobs.remove(world.pool, import_id)
    assert await asyncio.wait_for(step, SECONDS)


async def test_an_import_that_is_interrupted_is_taken_over_at_once(
    world: World, elsewhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    begun = asyncio.Event()

    async def waiting(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(carrier._Work, "carry_out", waiting)
        step = asyncio.create_task(runner(world).step())
        await begun.wait()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
    assert await runner(world).step()
    assert (await state(world, import_id)).state == "finished"


async def test_reports_and_uploads_that_were_given_up_are_forgotten(world: World, elsewhere: World) -> None:
    await eventful(elsewhere)
    done = await uploaded(world, await pack(elsewhere))
    assert await runner(world).step()
    left = await import_jobs.reserve(
        world.ledger, world.ledger_id, world.organisation_id, uuid7(), PART_BYTES, ACTOR, Limits(), dry_run=False
    )
    assert await import_jobs.forget(world.pool, timedelta(hours=1).total_seconds()) == 0
    await world.pool.execute("delete from operation.upload where upload_id = $1", left.import_id)  # as the sweep does
    assert await import_jobs.find(world.pool, world.ledger_id, left.import_id) is None
    assert await import_jobs.forget(world.pool, timedelta(hours=1).total_seconds()) == 1
    await world.pool.execute("update operation.import_job set changed_at = now() - interval '2 hours'")
    assert await import_jobs.forget(world.pool, timedelta(hours=1).total_seconds()) == 1
    assert await import_jobs.find(world.pool, world.ledger_id, done) is None


@pytest.fixture
def apart(world: World, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """What carries imports out in processes of their own."""
    for name, value in environment_of(world, database, tmp_path).items():
        monkeypatch.setenv(name, value)
    return Jobs(world.pool, Apart(world.pool).carry)


@asynccontextmanager
async def stuck(world: World, apart: Jobs) -> AsyncIterator[tuple["asyncio.Task[bool]", int]]:
    """Have an import stand before the project's head, and yield its step and its process."""
    async with world.pool.acquire() as connection, connection.transaction():
        await connection.execute("select from ledger.head where ledger_id = $1 for update", world.ledger_id)
        step = asyncio.create_task(apart.step())
        waiting = (
            "select count(*) from pg_stat_activity where application_name = 'tachograph-import'"
            " and datname = current_database() and wait_event_type = 'Lock'"
        )
        await eventually(lambda: world.pool.fetchval(waiting), "the import stands before the head")
        (pid,) = processes()
        yield step, pid


def processes() -> list[int]:
    """Return those of ours that carry imports out."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"imports.process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_an_import_goes_on_after_its_process_was_killed(world: World, elsewhere: World, apart: Jobs) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    async with stuck(world, apart) as (step, pid):
        os.kill(pid, signal.SIGKILL)
        assert await asyncio.wait_for(step, SECONDS)
    assert ((await state(world, import_id)).state, await attempts(world)) == ("waiting", 1)
    await due(world)
    assert await apart.step()
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, sum(report.counts.values()), report.counts.get("refused")) == ("finished", 2, None)
    assert processes() == []


async def test_a_process_that_stands_still_is_ended_once_its_hold_is_over(
    world: World, elsewhere: World, apart: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    monkeypatch.setattr(jobs, "HOLD_SECONDS", 0.1)
    monkeypatch.setattr(jobs, "STOP_SECONDS", 0.1)
    async with stuck(world, apart) as (step, pid):
        os.kill(pid, signal.SIGSTOP)
        await due(world)
        assert await asyncio.wait_for(step, SECONDS)
    assert processes() == []
    assert await apart.step()
    assert (await state(world, import_id)).state == "finished"


async def test_a_stop_gives_an_import_back_at_once(world: World, elsewhere: World, apart: Jobs) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    async with stuck(world, apart) as (step, _):
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(step, SECONDS)
        assert ((await state(world, import_id)).state, await attempts(world)) == ("waiting", 0)
    assert processes() == []
    assert await apart.step()
    assert (await state(world, import_id)).state == "finished"


async def test_a_process_that_finds_no_database_has_made_no_attempt(
    world: World, elsewhere: World, apart: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    monkeypatch.setenv("TACHOGRAPH_DATABASE_URL", f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    assert await apart.step()
    assert ((await state(world, import_id)).state, await attempts(world)) == ("waiting", 0)


async def test_an_import_in_a_process_of_its_own(
    world: World, elsewhere: World, apart: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    assert await apart.step()
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, report.counts, report.why) == ("finished", {"new": 2}, "")
    assert not await apart.step()
    assert caplog.messages == [], "its process ended as it should"
