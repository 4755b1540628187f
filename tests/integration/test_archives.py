"""Archives: what goes out comes in again, whole and once."""

import io
import json
import zipfile
from pathlib import Path

import asyncpg
import pytest

from events.commands import EditRun
from events.verification import verify
from projections import runs, tenancy
from projections.pack.packer import Packer, Wanted
from projections.refold import check_projections
from tests.integration.archiving import bring, command, content, eventful, pack, settled
from tests.integration.telemetry import World, opened_world


async def test_what_goes_out_comes_in_elsewhere_and_goes_out_again_the_same(
    world: World, elsewhere: World, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    first, second = await eventful(world, owner)
    data = await pack(world)
    path = tmp_path / "p.zip"
    path.write_bytes(data)
    reports = await bring(elsewhere, path)
    assert [(one.outcome, one.run_id, one.left_out) for one in reports] == [("new", first, []), ("new", second, [])]
    assert content(await pack(elsewhere)) == content(data)

    await elsewhere.archive()
    again = await pack(elsewhere)
    assert content(again) == content(data), "archived there, it is still the same"

    here, there = (await world.stored(first)).run, (await elsewhere.stored(first)).run
    for name in ("status", "epoch", "name", "config", "summary", "tags", "notes", "cause", "error", "exit_code",
                 "primary_metric", "last_seq", "created_at", "started_at", "ended_at", "host"):  # fmt: skip
        assert getattr(there, name) == getattr(here, name), name
    assert there.imported is not None
    assert there.imported.finished
    assert there.imported.origin.project == str(world.ledger_id)


async def test_the_ledger_says_that_it_was_imported_and_verifies(
    world: World, elsewhere: World, tmp_path: Path
) -> None:
    first, _ = await eventful(world)
    path = tmp_path / "p.zip"
    path.write_bytes(await pack(world, first))
    await bring(elsewhere, path)
    history = await elsewhere.ledger.read_stream(elsewhere.ledger_id, first)
    assert [one.type for one in history][:3] == ["run.imported", "run.failed", "run.history_imported"]
    assert {one.actor for one in history} == {"system:import"}
    told = history[2].event().events
    lived = await world.ledger.read_stream(world.ledger_id, first)
    original = [one for one in lived if one.type != "run.telemetry_archived"]
    assert [(one.id, one.actor, one.cause, one.recorded_at, one.position) for one in told] == [
        (one.event_id, one.actor, one.cause, one.recorded_at, one.position) for one in original
    ]
    assert (await verify(elsewhere.ledger, elsewhere.ledger_id)).first_bad is None
    url = str(elsewhere.pool._connect_args[0])
    assert (await check_projections(elsewhere.ledger, url, elsewhere.ledger_id))[1] is None
    await elsewhere.delete(first)
    await elsewhere.ledger.erase(elsewhere.ledger_id, first)
    assert (await check_projections(elsewhere.ledger, url, elsewhere.ledger_id))[1] is None
    refused = await bring(elsewhere, path)
    assert [one.outcome for one in refused] == ["refused"]
    assert "was deleted" in refused[0].why


async def test_the_same_archive_again_changes_nothing(world: World, elsewhere: World, tmp_path: Path) -> None:
    await eventful(world)
    path = tmp_path / "p.zip"
    path.write_bytes(await pack(world))
    await bring(elsewhere, path)
    head = await settled(elsewhere)
    for data in (path.read_bytes(), await pack(world)):
        path.write_bytes(data)
        assert {one.outcome for one in await bring(elsewhere, path)} == {"already there"}
        assert await settled(elsewhere) == head
    assert {one.outcome for one in await bring(world, path)} == {"already there"}, "back where it came from"


class Cut(Exception):
    pass


@pytest.mark.parametrize("rows", [1, 40])
async def test_an_import_that_was_cut_off_goes_on(world: World, elsewhere: World, tmp_path: Path, rows: int) -> None:
    first, second = await eventful(world)
    data = await pack(world)
    path = tmp_path / "p.zip"
    path.write_bytes(data)

    def cut(done: int) -> None:
        if done >= rows:
            raise Cut

    with pytest.raises(Cut):
        await bring(elsewhere, path, cut)
    half = (await elsewhere.stored(first)).run.imported
    assert half is not None
    assert not half.finished
    with zipfile.ZipFile(io.BytesIO(await pack(elsewhere))) as archive:
        said = json.loads(archive.read("manifest.json"))
    assert said["runs"] == []
    assert said["left_out"] == [{"run_id": str(first), "why": "its import was not finished"}]
    assert [one.outcome for one in await bring(elsewhere, path)] == ["continued", "new"]
    assert content(await pack(elsewhere)) == content(data)
    assert (await elsewhere.stored(second)).run.imported.finished  # type: ignore[union-attr]


async def test_another_project_of_the_same_home_has_runs_of_its_own(world: World, tmp_path: Path) -> None:
    first, _ = await eventful(world)
    path = tmp_path / "p.zip"
    data = await pack(world)
    path.write_bytes(data)
    async with opened_world(str(world.pool._connect_args[0]), tmp_path / "other" / "parquet") as other:
        reports = await bring(other, path)
        assert {one.outcome for one in reports} == {"new"}
        assert first not in {one.run_id for one in reports}
        assert content(await pack(other)) == content(data)
        head = await settled(other)
        assert {one.outcome for one in await bring(other, path)} == {"already there"}
        assert await settled(other) == head


async def test_a_run_that_goes_on_is_refused_and_the_others_are_not(
    world: World, elsewhere: World, tmp_path: Path
) -> None:
    running = await world.started_run()
    ended = await world.started_run()
    await world.end(ended)
    path = tmp_path / "p.zip"
    path.write_bytes(await pack(world))
    outcomes = {one.original: one for one in await bring(elsewhere, path)}
    assert outcomes[str(ended)].outcome == "new"
    assert "it was running when it was exported" in outcomes[str(running)].why
    assert await runs.get(elsewhere.pool, running) is None


async def test_an_archive_is_as_of_one_position(world: World) -> None:
    first, _ = await eventful(world)
    before = await pack(world, first, contents=False)
    position, chain = await world.ledger.head(world.ledger_id)
    await command(world, first, EditRun(notes="later"))
    await world.started_run()
    project = await tenancy.project_by_id(world.pool, world.ledger_id)
    assert project is not None
    wanted = Wanted(project=project, position=position, chain=chain.hex(), software="test")
    after = b"".join([chunk async for chunk in Packer(world.ledger, world.objects, world.store, wanted).chunks()])
    told = content(after)
    assert len(told) == 2
    assert content(before).items() <= told.items()
