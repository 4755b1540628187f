"""`python -m tachograph sync`: deliver what programs that were killed, or ended during an outage, left behind."""

import argparse
import logging
import sys
from collections.abc import Sequence

from tachograph._errors import Error
from tachograph._sync import sync


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status: 1 where something could not be delivered."""
    commands = argparse.ArgumentParser(prog="python -m tachograph")
    which = commands.add_subparsers(dest="command", required=True)
    syncing = which.add_parser("sync", help="deliver what programs left behind")
    syncing.add_argument("directory", nargs="?", help="where the journals are (default: where programs leave them)")
    syncing.add_argument("--run", metavar="ID", help="of this run alone")
    given = commands.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        done = sync(given.directory, run_id=given.run)
    except Error as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return 1
    print(f"{done.files} journals with {done.delivered} requests were delivered, {done.refused} requests refused")
    for path in done.skipped:
        print(f"left alone: {path}")
    return 1 if done.refused else 0


if __name__ == "__main__":
    sys.exit(main())
