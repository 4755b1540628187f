"""Archives that are bad, forged, or lack something: refused before anything is stored, or said."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from events.commands import CreateRun
from events.ids import uuid7
from events.run_events import RunCreated
from events.types import Mode
from projections.execute import asked_by, execute
from service.imports.incoming import Unreadable
from tests.integration.archiving import bring, eventful, pack, settled
from tests.integration.telemetry import ACTOR, World, opened_world


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
        (changed(good, manifest(version=4)), "has format 4; this release reads up to 3"),
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
