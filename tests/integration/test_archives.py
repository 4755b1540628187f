"""Archives: what goes out comes in again, whole and once, and what is bad is refused before anything is stored."""

import asyncio
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pyarrow.parquet as pq
import pytest

from events import codec
from events.commands import AttachRun, CreateRun, EditRun, EndRun, MarkCrashed, SetPrimaryMetric
from events.ids import uuid7
from events.ledger import Draft, Proposal
from events.run_events import RunCreated
from events.types import Cause, Failure, Mode, Status
from events.verification import verify
from projections import runs, tenancy
from projections.execute import asked_by, execute
from projections.pack.packer import Packer, Wanted
from projections.refold import check_projections
from service.imports.archive import Archive
from service.imports.incoming import Unreadable
from service.imports.report import RunReport
from stack.process import ROOT
from tests.api import SECONDS, eventually
from tests.integration import importing
from tests.integration.telemetry import ACTOR, MASTER_KEY, World, metric_batch, opened_world
from tests.servers import Database

BIG = 2**53 + 1
PAYLOAD_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_DEAD_BEEF))[0]
ODD = [PAYLOAD_NAN, float("inf"), float("-inf"), -0.0, 5e-324, 0.1 + 0.2, float(np.float32(0.1))]


async def pack(world: World, run_id: UUID | None = None, *, contents: bool = True) -> bytes:
    position, chain = await world.ledger.head(world.ledger_id)
    project = await tenancy.project_by_id(world.pool, world.ledger_id)
    assert project is not None
    wanted = Wanted(
        project=project, run_id=run_id, position=position, chain=chain.hex(), contents=contents, software="test"
    )
    return b"".join([chunk async for chunk in Packer(world.ledger, world.objects, world.store, wanted).chunks()])


def opened(path: Path) -> Archive:
    archive = Archive.at(path)
    archive.verify(lambda _done, _total: None)
    return archive


async def bring(world: World, path: Path, progress: Callable[[int], None] = lambda _: None) -> list[RunReport]:
    return await importing.bring(world, opened(path), progress)


def content(data: bytes) -> dict[str, Any]:
    """Return what an archive says of its runs, in an order that does not depend on where their telemetry lay."""
    told: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for run in json.loads(archive.read("manifest.json"))["runs"]:
            below = f"runs/{run['run_id']}"
            told[run["name"]] = {
                **{name: run[name] for name in ("status", "events", "points", "lines")},
                "artifacts": run["artifacts"],
                "lifecycle": archive.read(f"{below}/events.jsonl"),
                "metrics": rows(archive.read(f"{below}/metrics.parquet"), ["epoch", "source", "seq", "part", "metric"]),
                "logs": rows(archive.read(f"{below}/logs.parquet"), ["epoch", "source", "seq", "part"]),
                "contents": {
                    name.rpartition("/")[2]: archive.read(name)
                    for name in archive.namelist()
                    if name.startswith(f"{below}/artifacts/")
                },
            }
    return told


def rows(parquet: bytes, key: list[str]) -> list[tuple[Any, ...]]:
    """Return rows sorted by key, those of one key as they came; numbers as their bits."""
    table = pq.read_table(io.BytesIO(parquet)).to_pydict()
    if "value" in table:
        table["value"] = [struct.pack("<d", value) for value in table["value"]]
    names = list(table)
    every = list(zip(*table.values(), strict=True))
    by_step = [names.index(name) for name in (*key, "step") if name in names]
    return sorted(every, key=lambda row: [row[index] for index in by_step])


async def command(world: World, run_id: UUID, asked: Any) -> None:
    await execute(world.ledger, world.ledger_id, run_id, asked, asked_by(ACTOR))


async def log(world: World, run_id: UUID, epoch: int, seq: int, kind: str, *parts: Any) -> None:
    await world.ledger.append(
        Proposal(
            ledger_id=world.ledger_id, stream=run_id, event_id=uuid7(), actor=ACTOR, occurred_at=datetime.now(UTC),
            drafts=[Draft(type=kind, payload=codec.encode(part)) for part in parts], request=str(seq).encode(),
            epoch=epoch, source=f"rank{seq % 2}", seq=seq,
        )
    )  # fmt: skip


async def eventful(world: World, owner: asyncpg.Connection | None = None) -> list[UUID]:
    """Fill two runs with whatever is hard to keep: two attempts, odd numbers, files, partly archived telemetry."""
    first, second = await world.started_run(), await world.started_run()
    await command(world, first, EditRun(config={"lr": 0.1, "deep": {"n": BIG}}, tags=("a", "ü"), notes="=note"))
    for seq, value in enumerate(ODD):
        batch = metric_batch({"z": ([seq, BIG, 1], [value, 1.0, 2.0]), "a": ([-1, -1], [value, 3.0])}, stage="e 1")
        await log(world, first, 1, seq, codec.METRICS, batch, metric_batch({"other": ([seq], [value])}))
        await world.lines(first, "", f"ü\x1b[31m {seq}", stream="stderr")
    await world.archive()
    if owner is not None:
        await owner.execute("delete from ledger.telemetry")
    lost = MarkCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=50)
    await command(world, first, lost)
    await command(world, first, AttachRun(pid=7, host={"name": "h"}))
    await log(world, first, 2, 1, codec.SYSTEM_METRICS, metric_batch({"system/gpu": ([1], [0.5])}))
    await log(world, first, 2, 2, codec.METRICS, metric_batch({"z": ([9], [PAYLOAD_NAN])}))
    await command(world, first, SetPrimaryMetric(name="z", mode="max"))
    await world.save(first, "models/best.bin", b"old", kind="model", caption="c")
    await world.save(first, "models/best.bin", b"new" * 100_000, kind="model")
    await world.save(first, "empty", b"")
    error = Failure(type="E", message="m", traceback="t")
    await command(world, first, EndRun(epoch=2, status=Status.FAILED, error=error, last_seq={"rank0": 2}))
    await command(world, first, EditRun(summary={"best": 1.5}))
    await world.metrics(second, {"loss": ([1], [0.5])})
    await world.end(second)
    return [first, second]


async def settled(world: World) -> int:
    position, _ = await world.ledger.head(world.ledger_id)
    return position


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


def changed(data: bytes, change: Callable[[dict[str, bytes]], None], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with other contents."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return sink.getvalue()


def manifest(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | values).encode()

    return change


def put(name: str, body: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: body})


def flip(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith("metrics.parquet"))
    body = bytearray(files[name])
    body[len(body) // 2] ^= 1
    files[name] = bytes(body)


async def test_a_bad_archive_is_refused_and_leaves_nothing(world: World, elsewhere: World, tmp_path: Path) -> None:
    await eventful(world)
    good = await pack(world)
    path = tmp_path / "p.zip"
    head = await settled(elsewhere)
    for data, said in (
        (good[: len(good) // 2], "no ZIP file, or its end is missing"),
        (good[:-30], "no ZIP file, or its end is missing"),
        (b"", "no ZIP file"),
        (changed(good, flip), "its SHA-256 differs"),
        (changed(good, manifest(version=3)), "has format 3; this release reads up to 2"),
        (changed(good, manifest(format="other")), "is not of an export"),
        (changed(good, manifest(runs=None)), "cannot be read"),
        (changed(good, lambda files: files.pop("manifest.json")), "has no manifest.json"),
        (changed(good, put("../../evil", b"x")), "does not hold what its manifest lists"),
        (changed(good, put("runs/x", b"x")), "does not hold what its manifest lists"),
        (changed(good, lambda _: None, compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    ):
        path.write_bytes(data)
        with pytest.raises(Unreadable, match=said):
            await bring(elsewhere, path)
        assert await settled(elsewhere) == head


def rehashed(files: dict[str, bytes]) -> None:
    """Have the manifest list what is there now, as a forger would."""
    document = json.loads(files["manifest.json"])
    for run in document["runs"]:
        for file in run["files"]:
            body = files[file["path"]]
            file |= {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    files["manifest.json"] = json.dumps(document).encode()


async def test_a_forged_history_is_refused(world: World, elsewhere: World, tmp_path: Path) -> None:
    first, _ = await eventful(world)
    good = await pack(world, first)
    path = tmp_path / "p.zip"
    head = await settled(elsewhere)
    events = f"runs/{first}/events.jsonl"

    def forged(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[dict[str, bytes]], None]:
        def both(files: dict[str, bytes]) -> None:
            files[events] = b"".join(change(files[events].splitlines(keepends=True)))
            rehashed(files)

        return both

    for change, said in (
        (lambda lines: lines[1:], "cannot happen to a run that is absent"),
        (lambda lines: [*lines, lines[-1]], "not as the manifest says"),
        (lambda lines: [line.replace(b'"run.created"', b'"run.invented"') for line in lines], "cannot be read"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "is cut off"),
        (lambda lines: [line.replace(b'"name":"run ', b'"name":"\\u0000') for line in lines], "cannot be taken"),
    ):  # fmt: skip
        path.write_bytes(changed(good, forged(change)))
        (report,) = await bring(elsewhere, path)
        assert report.outcome == "refused"
        assert said in report.why
        assert await settled(elsewhere) == head


async def test_a_taken_name_and_missing_contents_are_said(world: World, elsewhere: World, tmp_path: Path) -> None:
    first, _ = await eventful(world)
    path = tmp_path / "p.zip"
    path.write_bytes(await pack(world, first, contents=False))
    await bring(elsewhere, path)
    async with opened_world(str(elsewhere.pool._connect_args[0]), tmp_path / "third" / "parquet") as third:
        name = (await world.stored(first)).run.name
        taken = CreateRun(created=RunCreated(name=name, session_id="s", mode=Mode.TRACKED))
        await execute(third.ledger, third.ledger_id, uuid7(), taken, asked_by(ACTOR))
        (report,) = await bring(third, path)
    assert report.outcome == "new"
    assert report.name.startswith(f"{name}-")
    assert any("its name" in text for text in report.left_out)
    assert any("its content is not in the archive" in text for text in report.left_out)


def environment_of(world: World, database: Database, directory: Path) -> dict[str, str]:
    key = directory / "master.key"
    key.write_bytes(MASTER_KEY)
    return os.environ | {
        "TACHOGRAPH_DATABASE_URL": database.url,
        "TACHOGRAPH_NATS_URL": "nats://127.0.0.1:1",
        "TACHOGRAPH_MASTER_KEY": str(key),
        "TACHOGRAPH_PARQUET": str(world.root),
        "TACHOGRAPH_OBJECT_STORE": str(world.root.with_name("objects")),
    }


def service(world: World, database: Database, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", *arguments]
    environment = environment_of(world, database, directory)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )


async def test_an_import_that_is_killed_goes_on(
    world: World, elsewhere: World, database: Database, tmp_path: Path
) -> None:
    """The archive comes from elsewhere; the process that brings it here dies by kill -9 between two batches."""
    run_id = await elsewhere.started_run()
    for _ in range(400):
        await elsewhere.metrics(run_id, {"loss": (range(2_000), [0.5] * 2_000)})
    await elsewhere.end(run_id)
    data = await pack(elsewhere)
    path = tmp_path / "p.zip"
    await asyncio.to_thread(path.write_bytes, data)
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "import", str(path), "--project", str(world.ledger_id),
        cwd=ROOT, env=environment_of(world, database, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    count = "select count(*) from ledger.event where ledger_id = $1 and seq is not null"

    async def begun() -> bool:
        return await world.pool.fetchval(count, world.ledger_id) > 0

    await eventually(begun, "the import has begun")
    dying.kill()
    await dying.wait()
    half = (await world.stored(run_id)).run.imported
    assert half is not None
    done = await asyncio.to_thread(
        service, world, database, tmp_path, "import", str(path), "--project", str(world.ledger_id), "--json"
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)["runs"]
    assert report["outcome"] == ("already there" if half.finished else "continued")
    assert content(await pack(world)) == content(data)


async def test_the_command_line_exports_and_imports(world: World, database: Database, tmp_path: Path) -> None:
    first, second = await eventful(world)
    path, project = str(tmp_path / "out.zip"), str(world.ledger_id)

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(service, world, database, tmp_path, *arguments)

    done = await run("export", "--project", project, "--artifacts", "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    data = await asyncio.to_thread((tmp_path / "out.zip").read_bytes)
    assert (written["runs"], written["bytes"]) == (2, len(data))
    assert content(data) == content(await pack(world))
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob(".*.part")))

    head = await settled(world)
    dry = await run("import", path, "--project", project, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert {one["outcome"] for one in json.loads(dry.stdout)["runs"]} == {"readable"}
    again = await run("import", path, "--project", project)
    assert again.returncode == 0, again.stderr
    assert "0 new, 0 continued, 2 already there, 0 refused" in again.stdout
    assert await settled(world) == head

    for arguments, said in (
        (["import", path, "--project", "nothing"], "there is no project 'nothing'"),
        (["import", str(tmp_path / "missing.zip"), "--project", project], "there is no"),
        (["export", "--project", project, "--run", "nothing", "-o", path], "there is no run 'nothing'"),
        (["export", "--project", project, "-o", str(tmp_path / "no" / "x.zip")], "No such file"),
    ):
        failed = await run(*arguments)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert said in failed.stderr
    assert {UUID(one["original"]) for one in json.loads(dry.stdout)["runs"]} == {first, second}
