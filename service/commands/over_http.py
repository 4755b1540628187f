"""`export` and `import` with `--url`: archives of a service elsewhere, with a key instead of its database.

What another tracker left is made into an archive first, here, where it lies.
A service that goes away on the way is waited for, and what was cut off goes on; later, the same command does.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final
from uuid import UUID

import msgspec

from service.commands.bar import Bar
from service.imports.archive import Archive
from service.imports.conversion import converted
from service.imports.incoming import Unreadable
from service.imports.inputs import Where, is_archive, opened
from service.imports.report import Exported, Outcomes, RunReport, Uploaded
from tachograph import Client, ImportJob, NotFound

FIRST_SECONDS: Final = 2.0
"""How long the service is waited for at first, when its address may be wrong."""
AWAY_SECONDS: Final = 120.0
UNNAMED: Final = "give --project: this input names none"


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
    """Upload an archive, or what another tracker left made into one, and follow its import.

    Raises the errors of `tachograph.Error`, and what reading the input raises.
    """
    with Bar() as bar, ExitStack() as stack:
        where = Where(options.path, options.system, options.experiment, options.step_multiplier)
        archive = Archive.at(Path(options.path)) if is_archive(where) else None
        source = None if archive else opened(where, bar.show)
        name = options.project or (archive and archive.manifest.project)
        if not name:
            raise Unreadable(UNNAMED)
        project = _project(options, name)
        read = list[RunReport]()
        if source is None:
            file: IO[bytes] = stack.enter_context(Path(options.path).open("rb"))
        else:
            file = stack.enter_context(tempfile.TemporaryFile())
            read = converted(source.input, file, bar.show)
            if all(one.outcome == "refused" for one in read):
                return _uploaded(options, project, None, read, {})
        client = stack.enter_context(Client(options.url, options.api_key, retry_seconds=AWAY_SECONDS))
        job = client.import_archive(project, file, dry_run=options.dry_run, progress=_in_mebibytes(bar))
        return _uploaded(options, project, job, read, _left_out(client, job, read, bar))


def _project(options: argparse.Namespace, name: str) -> str:
    with Client(options.url, options.api_key, retry_seconds=FIRST_SECONDS) as client:
        create = options.create and not options.dry_run
        return (client.ensure_project if create else client.project)(name)["id"]


def _left_out(client: Client, job: ImportJob, read: Sequence[RunReport], bar: Bar) -> dict[str, list[str]]:
    """Return by run what is not here of it: the service tells runs alone, or nobody yet of what was only checked."""
    came = msgspec.convert(job["report"], Outcomes).runs
    found = {one.original: one.left_out for one in read if job["dry_run"]}
    for number, one in enumerate(came, 1):
        if one.outcome in {"new", "continued"}:
            events = client.events(run=str(one.run_id), types=["run.import_finished"])
            found[one.original] = [text for event in events for text in event["data"].get("left_out", ())]
            bar.show("runs asked", number, len(came))
    return {original: texts for original, texts in found.items() if texts}


def _uploaded(
    options: argparse.Namespace,
    project: str,
    job: ImportJob | None,
    read: Sequence[RunReport],
    left_out: dict[str, list[str]],
) -> Uploaded:
    """Return what became of an import, with what was refused before anything was sent."""
    outcomes = msgspec.convert(job["report"], Outcomes) if job else Outcomes()
    for one in read:
        if one.outcome == "refused":
            outcomes.add(one)
    return Uploaded(options.path, UUID(project), UUID(job["id"]) if job else None, outcomes, left_out)


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
