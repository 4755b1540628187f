"""The SQL of the ledger, one file an operation; the file's name is the operation's."""

from functools import cache
from importlib.resources import files


@cache
def load(package: str, name: str) -> str:
    """Return the text of `name`.sql of `package`, read once."""
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")
