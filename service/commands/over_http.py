"""`export` and `import` with `--url`: archives of a service elsewhere, with a key instead of its database.

A service that goes away on the way is waited for, and what was cut off goes on; later, the same command does.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from service.commands.bar import Bar
from service.imports.archive import Archive
from service.imports.incoming import Unreadable
from service.imports.report import Exported, Outcomes, Uploaded
from tachograph import Client, NotFound

FIRST_SECONDS: Final = 2.0
"""How long the service is waited for at first, when its address may be wrong."""
AWAY_SECONDS: Final = 120.0
ARCHIVES_ALONE: Final = (
    "over HTTP only archives of `export` are taken; bring it in where the database is, and export it"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a service elsewhere."""
    parser.add_argument("--url", help="a service elsewhere: go over HTTP, with a key, without its database")
    parser.add_argument(
        "--api-key", metavar="KEY", help="for --url; better TACHOGRAPH_API_KEY, which other processes do not see"
    )


def export(options: argparse.Namespace) -> Exported:
    """Download an archive. Raises the errors of `tachograph.Error`."""
    with Client(options.url, options.api_key, retry_seconds=FIRST_SECONDS) as first:
        project = first.project(options.project)["id"]
        run = None if options.run is None else _run(first, project, options.run)
    name = options.output or f"{options.project if run is None else options.run}.zip".replace("/", "_")
    whose = {"project": project} if run is None else {"run": run}
    with Bar() as bar, Client(options.url, options.api_key, retry_seconds=AWAY_SECONDS) as client:
        manifest = client.export_archive(name, **whose, artifacts=options.artifacts, progress=_in_mebibytes(bar))
    return Exported(name, manifest["project"], manifest["position"], len(manifest["runs"]), Path(name).stat().st_size)


def bring(options: argparse.Namespace) -> Uploaded:
    """Upload an archive and follow its import. Raises the errors of `tachograph.Error`, and `Unreadable`."""
    path = Path(options.path)
    if options.system not in {None, "tachograph"} or options.experiment or path.is_dir() or "://" in options.path:
        raise Unreadable(ARCHIVES_ALONE)
    manifest = Archive.at(path).manifest
    name = options.project or manifest.project
    with Client(options.url, options.api_key, retry_seconds=FIRST_SECONDS) as first:
        project = (first.ensure_project if options.create and not options.dry_run else first.project)(name)["id"]
    with Bar() as bar, Client(options.url, options.api_key, retry_seconds=AWAY_SECONDS) as client:
        job = client.import_archive(project, path, dry_run=options.dry_run, progress=_in_mebibytes(bar))
    return Uploaded(options.path, UUID(project), UUID(job["id"]), msgspec.convert(job["report"], Outcomes))


def _run(client: Client, project: str, name_or_id: str) -> str:
    """Return the id of a run of a project. Raises `NotFound`."""
    try:
        return client.run(str(UUID(name_or_id)))["id"]
    except ValueError:
        quoted = name_or_id.replace("'", "''")
    found = next(client.runs(project, filter=f"name = '{quoted}'"), None)
    if found is None:
        raise NotFound(404, {"title": "Not found", "detail": f"there is no run {name_or_id!r} in this project"})
    return found["id"]


def _in_mebibytes(bar: Bar) -> Callable[[str, int, int], None]:
    """Show stages that count bytes in MiB, and others as they are."""

    def show(what: str, done: int, total: int) -> None:
        if what == "runs":
            bar.show(what, done, total)
        else:
            bar.show(f"MiB {what}", -(-done >> 20), -(-total >> 20) or None)

    return show
