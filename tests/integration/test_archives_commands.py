"""Archives by the command line: brought in by processes that die, and as users type it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from stack.process import ROOT
from tests.api import eventually
from tests.integration.archiving import content, environment_of, eventful, pack, service, settled
from tests.integration.telemetry import World
from tests.servers import Database


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
