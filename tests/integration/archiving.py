"""Archives of projects that are full of what is hard to keep: how tests pack them, bring them in and compare them."""

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

from events import codec
from events.commands import AttachRun, EditRun, EndRun, MarkCrashed, SetPrimaryMetric
from events.ids import uuid7
from events.ledger import Draft, Proposal
from events.types import Cause, Failure, Status
from projections import tenancy
from projections.execute import asked_by, execute
from projections.pack.packer import Packer, Wanted
from service.imports.archive import Archive
from service.imports.report import RunReport
from stack.process import ROOT
from tests.api import SECONDS
from tests.integration import importing
from tests.integration.telemetry import ACTOR, MASTER_KEY, World, metric_batch
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
