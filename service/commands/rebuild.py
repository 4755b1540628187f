"""`python -m service rebuild NAME | --all`: compute projections again from the ledger, compare, put in place.

Exit status: 0 rebuilt is what was live, 1 something differed (and is right now, unless `--compare`), 2 it failed.
"""

import argparse
import asyncio
from collections.abc import Sequence

from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings, SettingsError, from_environment
from projections.apply import Projection
from projections.archive import stores
from projections.archive.stores import Store
from projections.archived_metrics import ArchivedMetrics
from projections.rebuild import PROJECTIONS, Rebuilt, rebuild
from service.commands.bar import Bar


def main(arguments: Sequence[str]) -> int:
    """Rebuild what the command line names and print a report of each; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service rebuild", description="Rebuild projections.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", choices=sorted(PROJECTIONS), help="which projection")
    which.add_argument("--all", action="store_true", help="every projection")
    parser.add_argument("--compare", action="store_true", help="compare only, and leave the live one in place")
    options = parser.parse_args(arguments)
    names = sorted(PROJECTIONS) if options.all else [options.name]
    with Bar() as bar:
        reports = asyncio.run(_rebuild(from_environment(), names, bar, swap=not options.compare))
    for report in reports:
        print(said(report))
    return 1 if any(report.differences for report in reports) else 0


async def _rebuild(settings: Settings, names: Sequence[str], bar: Bar, *, swap: bool) -> list[Rebuilt]:
    if settings.owner_database_url is None:
        raise SettingsError("TACHOGRAPH_OWNER_DATABASE_URL is not set; tables are rebuilt as the owning role")
    store = stores.opened(settings)
    pool = await open_pool(settings.database_url, name="rebuild", size=4)
    try:
        ledger = Ledger(pool, Keyring.from_file(settings.master_key))
        return [
            await rebuild(
                ledger,
                settings.owner_database_url,
                projection(name, store),
                swap=swap,
                progress=bar.of(name),
            )
            for name in names
        ]
    finally:
        await pool.close()


def projection(name: str, store: Store) -> Projection:
    """Return the projection as a rebuild needs it: with the archive for what is no longer in Postgres."""
    return ArchivedMetrics(store) if name == ArchivedMetrics.name else PROJECTIONS[name]


def said(report: Rebuilt) -> str:
    """Return a report in lines."""
    rows = ", ".join(f"{count} {table}" for table, count in report.rows.items())
    events = sum(report.positions.values())
    swapped = f"; swapped, writers waited {report.stopped_seconds * 1000:.0f} ms" if report.swapped else ""
    without = f"; without {report.left_out} discarded events" if report.left_out else ""
    lines = [f"{report.projection}: {events} positions of {len(report.positions)} ledgers, {rows}{swapped}{without}"]
    lines += [f"  differs: {one.table}, {one.side} only: {one.row}" for one in report.differences]
    return "\n".join(lines) if report.differences else f"{lines[0]}; nothing differs"
