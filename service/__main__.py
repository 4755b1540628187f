"""`python -m service`: the API. `python -m service bootstrap`: migrations and the first key. `… schemas [--check]`,
`… verify --project P`, `… rebuild NAME | --all`, `… replay --project P`, `… export --project P`, `… import PATH`,
`… keys list`."""

import logging
import sys
from importlib import import_module
from typing import Final

import asyncpg

import tachograph
from events.errors import LedgerError
from events.settings import SettingsError, from_environment
from service.commands.migrate import MigrationError

USAGE: Final = """\
usage: python -m service [bootstrap | schemas [--check] | verify --project P … | rebuild {NAME | --all} …
                          | replay --project P … | export --project P … | import PATH …
                          | keys {list | create NAME --role R | revoke ID}]"""

COMMANDS: Final = {
    "bootstrap": "bootstrap",
    "schemas": "schemas",
    "verify": "audit",
    "rebuild": "rebuild",
    "replay": "replay",
    "export": "export",
    "import": "importing",
    "keys": "keys",
}
"""The modules in `service.commands`; each loads only what it needs."""


def main(arguments: list[str]) -> int:
    """Run what the command line names; returns the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        match arguments:
            case []:
                from service.server import serve  # noqa: PLC0415

                return serve(from_environment())
            case ["-h" | "--help"]:
                print(_help())
                return 0
            case [command, *options] if command in COMMANDS:
                status: int = import_module(f"service.commands.{COMMANDS[command]}").main(options)
                return status
            case _:
                print(USAGE, file=sys.stderr)
                return 2
    except (SettingsError, MigrationError, LedgerError, OSError, asyncpg.PostgresError, tachograph.Error) as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return 2


def _help() -> str:
    """Return the usage with a line for each command: what its module says of itself."""
    described = {name: import_module(f"service.commands.{module}").__doc__ or "" for name, module in COMMANDS.items()}
    lines = {name: text.split("\n\n")[0].replace("\n", " ").rpartition("`: ")[2] for name, text in described.items()}
    listed = "\n".join(f"  {name:<10} {text}" for name, text in lines.items())
    return f"{USAGE}\n\nWithout a command it serves the HTTP API. COMMAND --help says more of one.\n\n{listed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
