"""`python -m service import PATH --project P`: bring runs here: an archive, TensorBoard, MLflow, Neptune.

Exit status: 0 all of it is here, 1 something was refused (and is named), 2 nothing could be read or reached.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec

from events.database import open_pool
from events.errors import NotFound
from events.ids import derived
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import ProjectCreated
from events.records import IMPORTER
from events.settings import Settings, from_environment
from projections import tenancy
from projections.execute import Request, record
from projections.storage import artifact_limits
from projections.storage.objects import ObjectStore
from projections.storage.uploads import Uploads
from projections.tenancy import Project
from service.bodies import NewProject
from service.commands import over_http
from service.commands.audit import find_project
from service.commands.bar import Bar
from service.imports.definitions import Definer, taken_over
from service.imports.importer import Importer, taken
from service.imports.incoming import SYSTEMS
from service.imports.inputs import Where, opened
from service.imports.report import Report, Uploaded


def main(arguments: Sequence[str]) -> int:
    """Import what the command line names, and say what became of it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service import", description="Bring runs here that ended elsewhere."
    )
    parser.add_argument("path", help="an archive of `export`, what another tracker left, or an MLflow server's URL")
    parser.add_argument("--from", dest="system", choices=SYSTEMS, help="what it is; by default as it looks")
    parser.add_argument("--project", help="id or name; by default that of the archive")
    parser.add_argument("--create", action="store_true", help="open the project where it is missing")
    parser.add_argument(
        "--experiment", action="append", default=[], help="of a server, by name or id; repeatable; by default all"
    )
    parser.add_argument("--step-multiplier", type=int, default=1, help="makes Neptune's fractional steps whole")
    parser.add_argument("--dry-run", action="store_true", help="check everything, store nothing")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    over_http.add_options(parser)
    options = parser.parse_args(arguments)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # what it tries again is said once it gives up
    report: Report | Uploaded
    try:
        report = over_http.bring(options) if options.url else asyncio.run(_import(from_environment(), options))
    except KeyboardInterrupt:
        print("stopped; the same command again goes on", file=sys.stderr)
        return 130
    print(msgspec.json.encode(report).decode() if options.json else report.said())
    return 1 if report.refused else 0


async def _import(settings: Settings, options: argparse.Namespace) -> Report:
    with Bar() as bar:
        where = Where(options.path, options.system, options.experiment, options.step_multiplier)
        source = await asyncio.to_thread(opened, where, bar.show)
        name = options.project or source.project
        if name is None:
            raise NotFound(over_http.UNNAMED)
        pool = await open_pool(settings.database_url, name="import", size=4)
        try:
            ledger = Ledger(pool, Keyring.from_file(settings.master_key))
            project = await _project(ledger, name, create=options.create and not options.dry_run)
            uploads = Uploads(ledger, ObjectStore.at(settings.object_store), artifact_limits.from_environment())
            report = Report(source.input.system, options.path, project.project_id)
            importer = None if options.dry_run else Importer(ledger, uploads, project)
            definer = None if options.dry_run else Definer(ledger, project)
            async for defined in taken_over(source.definitions, definer):
                report.definitions.append(defined)
            rows = bar.of("rows")
            async for one in taken(source.input, importer, lambda done: rows(done, done)):
                report.runs.append(one)
                bar.show("runs", len(report.runs), max(source.input.expected, len(report.runs)))
            await ledger.drained()
            return report
        finally:
            await pool.close()


async def _project(ledger: Ledger, name: str, *, create: bool) -> Project:
    """Return the project, opened if it may be. Raises `NotFound`."""
    pool = ledger.pool
    try:
        project_id = await find_project(pool, name)
    except NotFound:
        if not create:
            raise NotFound(f"there is no project {name!r}; --create opens one") from None
        project_id = await _opened(ledger, name)
    project = await tenancy.project_by_id(pool, project_id)
    if project is None:
        raise NotFound(f"there is no project {name!r}")
    return project


async def _opened(ledger: Ledger, name: str) -> UUID:
    """Open a project in the one organisation that there is."""
    msgspec.convert({"name": name}, NewProject)
    organisations: list[asyncpg.Record] = await ledger.pool.fetch("select organisation_id from organisation limit 2")
    if len(organisations) != 1:
        raise NotFound("a project is opened by a command only where there is one organisation; open it over the API")
    organisation_id: UUID = organisations[0]["organisation_id"]
    project_id = derived(organisation_id, "import", name)
    await ledger.open(project_id, organisation_id, "project")
    request = Request(
        actor=IMPORTER,
        event_id=derived(project_id, "created"),
        body=name.encode(),
        named=True,
        occurred_at=datetime.now(UTC),
    )
    await record(
        ledger,
        ledger_id=project_id,
        stream=project_id,
        expected_version=0,
        events=[ProjectCreated(name=name, organisation=organisation_id)],
        inline=tenancy.project_row(organisation_id=organisation_id, version=1, name=name, description=""),
        request=request,
    )
    return project_id
