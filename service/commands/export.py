"""`python -m service export --project P [--run R] [-o FILE]`: write runs to an archive.

The file has its name once it is whole. An export that was cut off begins anew: nothing of it is kept.
Exit status: 0 exported, 2 it could not be.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO

import msgspec

from events.database import open_pool
from events.errors import NotFound
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings, from_environment
from projections import tenancy
from projections.archive import parquet, stores
from projections.pack.packer import Packer, Wanted
from projections.storage.objects import ObjectStore
from service import VERSION
from service.commands import over_http
from service.commands.audit import find_project
from service.commands.bar import Bar
from service.commands.replay import find_run
from service.imports.report import Exported

SOFTWARE = f"tachograph {VERSION}"


def main(arguments: Sequence[str]) -> int:
    """Export what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service export", description="Take runs out as an archive.")
    parser.add_argument("--project", required=True, help="id or name")
    parser.add_argument("--run", help="id or name: only this run")
    parser.add_argument("--artifacts", action="store_true", help="with the contents of artifacts")
    parser.add_argument("-o", "--output", metavar="FILE", help="by default PROJECT.zip; - is standard output")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    over_http.add_options(parser)
    options = parser.parse_args(arguments)
    if options.output == "-" and options.url is not None:
        parser.error("with --url an archive goes to a file, which is there once it is whole")
    if options.output == "-" and sys.stdout.isatty():
        parser.error("an archive is not written to a terminal")
    done = over_http.export(options) if options.url else asyncio.run(_export(from_environment(), options))
    if options.json or options.output != "-":
        said = msgspec.json.encode(done).decode() if options.json else done.said()
        print(said, file=sys.stderr if options.output == "-" else sys.stdout)
    return 0


async def _export(settings: Settings, options: argparse.Namespace) -> Exported:
    pool = await open_pool(settings.database_url, name="export", size=4)
    try:
        ledger = Ledger(pool, Keyring.from_file(settings.master_key))
        project = await tenancy.project_by_id(pool, await find_project(pool, options.project))
        if project is None:
            raise NotFound(f"there is no project {options.project!r}")
        run = await find_run(ledger, project.project_id, options.run) if options.run else None
        position, chain = await ledger.head(project.project_id)
        wanted = Wanted(
            project=project,
            run_id=None if run is None else run.run_id,
            position=position,
            chain=chain.hex(),
            contents=options.artifacts,
            software=SOFTWARE,
        )
        packer = Packer(ledger, ObjectStore.at(settings.object_store), stores.opened(settings), wanted)
        name = options.output or f"{(project if run is None else run.run).name}.zip".replace("/", "_")
        with Bar() as bar:
            size = await _write(packer, name, bar, await packer.expected())
        return Exported(name, project.name, position, packer.packed, size)
    finally:
        await pool.close()


async def _write(packer: Packer, name: str, bar: Bar, runs: int) -> int:
    if name == "-":
        return await _copy(packer, sys.stdout.buffer, bar, runs)
    path = Path(name)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            size = await _copy(packer, file, bar, runs)
            file.flush()
            os.fsync(file.fileno())
        parquet.publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return size


async def _copy(packer: Packer, file: BinaryIO, bar: Bar, runs: int) -> int:
    size = 0
    async with aclosing(packer.chunks()) as chunks:
        async for chunk in chunks:
            file.write(chunk)
            size += len(chunk)
            bar.show("runs", packer.packed, max(runs, packer.packed))
    return size
