"""Artifacts and their uploads below the API: sealed, bound to their place, safe against purges, sweeps and deaths."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from events.errors import Busy, CorruptHistory, Erased, NotFound, Rejected
from events.ids import uuid7
from projections.storage import artifacts
from projections.storage.artifact_limits import Limits
from projections.storage.artifacts import PART_BYTES, Artifact
from projections.storage.objects import ObjectStore, StoreUnavailable
from projections.storage.upload_writer import Upload, UploadCut, Wanted
from projections.storage.uploads import Uploads
from tests.api import eventually
from tests.integration.telemetry import ACTOR, AT_ONCE, World, body, drained
from workers import artifact_sweep

DATA = bytes(range(256)) * (2 * PART_BYTES // 256) + b"the end"


def uploads_of(world: World) -> Uploads:
    """Return what takes uploads, as another process has it."""
    return Uploads(world.ledger, world.objects, Limits())


async def opened(world: World, run_id: UUID, data: bytes = DATA) -> Upload:
    wanted = Wanted(name="m", kind="model", bytes=len(data))
    return await uploads_of(world).open(await world.stored(run_id), world.organisation_id, wanted, uuid7())


async def read(world: World, artifact: Artifact) -> bytes:
    parts = artifacts.content(world.ledger, world.objects, artifact, 0, artifact.bytes - 1)
    return b"".join([part async for part in parts])


async def paths(world: World) -> list[str]:
    return sorted([one.path async for page in world.objects.pages(artifacts.ROOT) for one in page])


async def waiting(event: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a part, and a second one when told to."""
    yield DATA[:PART_BYTES]
    await event.wait()
    yield DATA[PART_BYTES:]


# --- what is stored ---------------------------------------------------------------------------------------


async def test_content_is_sealed_and_bound_to_its_place(world: World) -> None:
    run_id = await world.started_run()
    artifact = await world.save(run_id, "m", DATA)
    assert await read(world, artifact) == DATA
    first, second, last = await paths(world)
    whole = [await world.objects.get(path) for path in (first, second, last)]
    assert b"the end" not in b"".join(whole)
    for path, sealed in (
        (first, whole[0][:-1] + bytes([whole[0][-1] ^ 1])), (first, whole[1]), (last, whole[2][:-1]), (last, b""),
    ):  # fmt: skip
        await world.objects.put(path, sealed)
        with pytest.raises(CorruptHistory, match="was altered"):
            await read(world, artifact)
        await world.objects.put(first, whole[0])
        await world.objects.put(last, whole[2])
    await world.objects.delete([second])
    with pytest.raises(CorruptHistory, match=r"part 1 of blob .* is missing"):
        await read(world, artifact)


async def test_without_its_key_content_is_gone_wherever_copies_lie(world: World) -> None:
    run_id = await world.started_run()
    artifact = await world.save(run_id, "m", b"content")
    await world.end(run_id)
    await world.delete(run_id)
    await world.ledger.erase(world.ledger_id, run_id)
    assert await world.objects.get((await paths(world))[0])
    with pytest.raises(Erased):
        await read(world, artifact)


# --- continued by others ----------------------------------------------------------------------------------


async def test_another_process_goes_on_and_hashes_what_it_did_not_see(world: World) -> None:
    upload = await opened(world, await world.started_run())
    upload = await uploads_of(world).receive(upload, 0, body(DATA[:PART_BYTES]))
    assert upload.received == PART_BYTES
    other = uploads_of(world)
    upload = await other.receive(upload, PART_BYTES, body(DATA[PART_BYTES:]))
    assert upload.received == len(DATA)
    third = uploads_of(world)  # the second died before it recorded the event
    artifact, new = await third.finish(upload, ACTOR)
    assert (artifact.sha256, new) == (hashlib.sha256(DATA).hexdigest(), True)
    assert await read(world, artifact) == DATA


async def test_one_request_at_a_time_writes_to_an_upload(world: World) -> None:
    upload = await opened(world, await world.started_run())
    go_on = asyncio.Event()
    writing = asyncio.create_task(uploads_of(world).receive(upload, 0, waiting(go_on)))
    await eventually(lambda: _received(world, PART_BYTES), "the first part is durable")
    with pytest.raises(Busy):
        await uploads_of(world).receive(upload, PART_BYTES, body(DATA[PART_BYTES:]))
    with pytest.raises(Rejected, match=f"{PART_BYTES} bytes of this upload are durable"):
        await uploads_of(world).receive(upload, 0, body(DATA))
    await uploads_of(world).discard(upload)
    assert len(await paths(world)) == 1, "nothing is removed behind the writer's back"
    go_on.set()
    assert (await writing).received == len(DATA)


async def _received(world: World, size: int) -> bool:
    found: int = await world.pool.fetchval("select received from operation.upload")
    return found == size


async def test_a_body_that_stands_still_is_cut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.storage.upload_writer.SILENT_SECONDS", 0.05)
    upload = await opened(world, await world.started_run())
    with pytest.raises(UploadCut, match="nothing came"):
        await uploads_of(world).receive(upload, 0, waiting(asyncio.Event()))
    assert (await uploads_of(world).receive(upload, PART_BYTES, body(DATA[PART_BYTES:]))).received == len(DATA)


# --- purges -----------------------------------------------------------------------------------------------


async def test_a_purge_waits_for_a_part_that_may_still_be_written(world: World) -> None:
    run_id = await world.started_run()
    await world.save(run_id, "other", b"12345")
    upload = await opened(world, run_id)
    go_on = asyncio.Event()
    writing = asyncio.create_task(uploads_of(world).receive(upload, 0, waiting(go_on)))
    await eventually(lambda: _received(world, PART_BYTES), "the first part is durable")
    await world.end(run_id)
    await world.delete(run_id)
    await world.readers_pass()
    await world.archive(AT_ONCE)
    assert (await world.stored(run_id)).run.receipt is None
    go_on.set()
    with pytest.raises(Erased):
        await writing
    await world.archive(AT_ONCE)
    receipt = (await world.stored(run_id)).run.receipt
    assert receipt is not None
    # the part that was under way when the run was deleted is stored, counted, and gone as well
    assert receipt["artifacts"].objects == 3
    assert receipt["artifacts"].bytes == 5 + 2 * PART_BYTES + 3 * 28
    assert await paths(world) == []
    assert await world.pool.fetchval("select count(*) from operation.upload") == 0
    with pytest.raises(Erased):
        await opened(world, run_id)


async def test_a_run_deleted_before_the_last_step_keeps_no_artifact(world: World) -> None:
    run_id = await world.started_run()
    uploads = uploads_of(world)
    upload = await uploads.receive(await opened(world, run_id), 0, body(DATA))
    await world.end(run_id)
    await world.delete(run_id)
    with pytest.raises(Erased):
        await uploads.finish(upload, ACTOR)
    await world.readers_pass()
    await world.archive(AT_ONCE)
    assert await paths(world) == []
    types = [event.type for event in await world.ledger.read_stream(world.ledger_id, run_id)]
    assert "run.artifact_saved" not in types


async def test_a_purge_waits_for_an_object_store_that_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await world.started_run()
    await world.save(run_id, "m", b"12345")
    await world.end(run_id)
    await world.delete(run_id)
    await world.readers_pass()
    archiver = world.archiver()

    async def away(_: str) -> tuple[int, int]:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(world.objects, "measure", away)
        await drained(archiver)
    assert (await world.stored(run_id)).run.receipt is None
    await drained(archiver)
    assert (await world.stored(run_id)).run.receipt is not None


# --- sweeps -----------------------------------------------------------------------------------------------


async def test_a_stale_upload_is_removed_and_an_artifact_is_not(world: World) -> None:
    run_id = await world.started_run()
    kept = await world.save(run_id, "kept", DATA)
    await opened(world, run_id)
    uploads = uploads_of(world)
    stale = await uploads.receive(await opened(world, run_id), 0, body(DATA[:PART_BYTES]))
    # one whose event was recorded, and whose process died before the row went
    await world.pool.execute(
        "insert into operation.upload select $1, ledger_id, run_id, organisation_id, bytes, received, description"
        " from operation.upload limit 1",
        kept.blob_id,
    )
    assert await artifact_sweep.remove_stale_uploads(world.pool, world.objects, 3_600) == 0
    assert len(await paths(world)) == 4
    await world.pool.execute("update operation.upload set touched_at = now() - interval '2 hours'")
    assert await artifact_sweep.remove_stale_uploads(world.pool, world.objects, 3_600) == 3
    assert await read(world, kept) == DATA
    assert len(await paths(world)) == 3
    with pytest.raises(NotFound):
        await uploads.receive(stale, PART_BYTES, body(DATA[PART_BYTES:]))


async def test_parts_of_nothing_are_removed_and_those_of_others_are_not(world: World) -> None:
    run_id = await world.started_run()
    kept = await world.save(run_id, "kept", b"x")
    await uploads_of(world).receive(await opened(world, run_id), 0, body(DATA[:PART_BYTES]))
    known = await paths(world)
    foreign = artifacts.part_path(uuid7(), run_id, uuid7(), 0)
    await world.objects.put(foreign, b"of another installation")
    await world.objects.put(f"{artifacts.ROOT}odd", b"?")
    await world.objects.put(artifacts.part_path(world.ledger_id, run_id, uuid7(), 3), b"of nothing")
    assert await artifact_sweep.remove_orphans(world.pool, world.objects, 3_600) == 0
    assert await artifact_sweep.remove_orphans(world.pool, world.objects, 0) == 1
    assert await paths(world) == sorted([*known, foreign, f"{artifacts.ROOT}odd"])
    assert await read(world, kept) == b"x"


async def test_a_store_that_fails_in_between_leaves_an_upload_that_goes_on(world: World) -> None:
    upload = await opened(world, await world.started_run())
    failing = Uploads(world.ledger, _Failing(world.objects), Limits())
    with pytest.raises(StoreUnavailable):
        await failing.receive(upload, 0, body(DATA))
    with pytest.raises(Busy):  # what failed may still be under way
        await uploads_of(world).receive(upload, PART_BYTES, body(DATA[PART_BYTES:]))
    await world.pool.execute("update operation.upload set held_until = now()")  # a minute later
    upload = await uploads_of(world).receive(upload, PART_BYTES, body(DATA[PART_BYTES:]))
    artifact, _ = await uploads_of(world).finish(upload, ACTOR)
    assert await read(world, artifact) == DATA


class _Failing(ObjectStore):
    """A store whose second write fails."""

    def __init__(self, objects: ObjectStore) -> None:
        self.__dict__.update(objects.__dict__)
        self._writes = 0

    async def put(self, path: str, data: bytes) -> None:
        self._writes += 1
        if self._writes > 1:
            raise StoreUnavailable("it went away")
        await super().put(path, data)
