"""What is kept of each release: its source, and a database that it filled. `python -m tests.golden.releases NAME`.

    releases/NAME/source.tar.xz   the packages that run on a database, `schemas/` as they were, and `history.py`
                  tables/         every table's rows, as COPY writes them
                  parquet/        the archived segments
                  expected.json   what is to be read back

A test restores the database with the release's own migrations, migrates it, and reads it; and it runs the release's
code on the newer schema. Directories here are added to, never changed.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from stack import Postgres

GOLDEN = Path(__file__).parent
ROOT = GOLDEN.parent.parent
RELEASES = GOLDEN / "releases"
PACKAGES = ("events", "projections", "service", "workers")
TABLES = """
    select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('ledger', 'projection', 'operation') and c.relkind in ('r', 'p') and not c.relispartition
    order by 1
"""

PARTITIONS = "select relname from pg_class where relname ~ '^telemetry_[0-9]' and relkind = 'r'"


class Release:
    """One release, as it is kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.parquet = directory / "parquet"

    @property
    def expected(self) -> dict[str, Any]:
        """What `history.live` printed when the release was made."""
        document: dict[str, Any] = json.loads((self.directory / "expected.json").read_text())
        return document

    @contextmanager
    def source(self) -> Iterator[Path]:
        """Unpack the release's source."""
        with tempfile.TemporaryDirectory(prefix="tachograph-release-") as directory:
            with tarfile.open(self.directory / "source.tar.xz") as archive:
                archive.extractall(directory, filter="data")
            yield Path(directory)

    async def restore(self, source: Path, owner_url: str, superuser_url: str) -> None:
        """Make the database anew: the release's own migrations, then every row."""
        await asyncio.to_thread(history, source, "migrate", owner_url)
        connection = await asyncpg.connect(superuser_url)
        await connection.execute("set session_replication_role = replica")  # the rows refer to each other
        for row in await connection.fetch(PARTITIONS):  # those of the hour it is now, which a release does not know
            await connection.execute(f"drop table ledger.{row['relname']}")
        for file in sorted((self.directory / "tables").iterdir()):
            schema, table = file.stem.split(".")
            await connection.copy_to_table(table, schema_name=schema, source=file)
        await connection.close()


def releases() -> list[Release]:
    """Every release that is kept, oldest first."""
    return [Release(path) for path in sorted(RELEASES.iterdir()) if path.is_dir()]


def history(source: Path, *arguments: str) -> str:
    """Run a release's `history.py` from its source alone; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "history", *arguments],
        cwd=source, env=os.environ | {"PYTHONPATH": str(source)}, check=False, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"{source}: history {arguments[0]} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def pack(path: Path) -> None:
    """Write the source that runs on a database, as it is checked out."""
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES, "schemas"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()  # fmt: skip
    names = [(ROOT / name, name) for name in listed if not name.startswith("workers/gpu/")]
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for file, name in [*names, (GOLDEN / "history.py", "history.py")]:
            entry = archive.gettarinfo(file, name)
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            with file.open("rb") as content:
                archive.addfile(entry, content)


async def _copy_out(superuser_url: str, directory: Path) -> None:
    connection = await asyncpg.connect(superuser_url)
    for row in await connection.fetch(TABLES):
        file = directory / f"{row[0]}.copy"
        await connection.copy_from_query(f"select * from {row[0]}", output=file)
        if file.stat().st_size == 0:
            file.unlink()
    await connection.close()


def make(name: str) -> Release:
    """Keep the release that is checked out under a new name. Raises `FileExistsError`."""
    release = Release(RELEASES / name)
    (release.directory / "tables").mkdir(parents=True)
    pack(release.directory / "source.tar.xz")
    home = Path(tempfile.mkdtemp(prefix="tachograph-release-"))
    server = Postgres(home)
    server.start()
    try:
        with release.source() as source:
            history(source, "migrate", server.url("tachograph_owner"))
            said = history(source, "live", server.url(), str(home / "parquet"))
        shutil.copytree(home / "parquet", release.parquet)
        (release.directory / "expected.json").write_text(said)
        asyncio.run(_copy_out(server.url("postgres"), release.directory / "tables"))
    finally:
        server.stop()
        shutil.rmtree(home)
    return release


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(f"{make(sys.argv[1]).directory}\n")
