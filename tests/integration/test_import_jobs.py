"""Import jobs one step at a time: what waits, what is given up, and who goes on."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from events.ids import uuid7
from projections import import_jobs
from projections.import_jobs import ImportJob
from projections.storage.artifact_limits import Limits
from projections.storage.artifacts import PART_BYTES
from projections.storage.objects import StoreUnavailable
from projections.storage.uploads import Uploads
from service.imports import jobs
from service.imports.jobs import Jobs, report_of
from tests.api import SECONDS
from tests.integration.archiving import eventful, pack
from tests.integration.telemetry import ACTOR, World


def runner(world: World) -> Jobs:
    return Jobs(world.ledger, world.objects, Uploads(world.ledger, world.objects, Limits()))


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
    for _ in range(jobs.MOST_ATTEMPTS + 2):
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

    monkeypatch.setattr(jobs._Work, "carry_out", broken)
    for _ in range(jobs.MOST_ATTEMPTS):
        assert (await state(world, import_id)).state == "waiting"
        assert await runner(world).step()
        await due(world)
    done = await state(world, import_id)
    report = await report_of(world.ledger, done)
    assert report is not None
    assert (done.state, report.why) == ("failed", "it failed 5 times, at last with RuntimeError")
    assert not await runner(world).step()


async def test_an_import_that_kills_its_process_is_given_up(world: World, elsewhere: World) -> None:
    await eventful(elsewhere)
    import_id = await uploaded(world, await pack(elsewhere))
    for _ in range(jobs.MOST_ATTEMPTS):  # claimed, and never heard of again
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
    monkeypatch.setattr(jobs, "SAY_SECONDS", 0.01)
    begun = asyncio.Event()

    async def waiting(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(jobs._Work, "carry_out", waiting)
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
        patch.setattr(jobs._Work, "carry_out", waiting)
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
