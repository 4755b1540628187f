"""PostgreSQL refuses to run as root; for root, the system account that it runs under and the way to its files."""

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from stack.errors import StackError

ACCOUNTS: Final = ("tachograph", "postgres")
THROUGH: Final = stat.S_IXOTH
READABLE: Final = stat.S_IROTH


class Account(msgspec.Struct, frozen=True):
    """A system account."""

    name: str
    user: int
    group: int


def database_account(data: Path) -> Account | None:
    """Return the account for PostgreSQL, None where our own will do; what owns the data already stays the owner."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        entry = pwd.getpwuid(owner)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    return _create(ACCOUNTS[0])


def open_the_way(paths: Iterable[Path]) -> list[Path]:
    """Let other accounts through to these directories, without letting them list any; returns what was changed."""
    opened = []
    for path in paths:
        for directory in (path, *path.parents):
            mode = directory.stat().st_mode
            if not mode & THROUGH:
                directory.chmod(stat.S_IMODE(mode) | THROUGH)
                opened.append(directory)
    return opened


def make_readable(root: Path) -> None:
    """Let other accounts read and run what is installed under a directory (a strict umask forbids it)."""
    for directory, _, files in os.walk(root):
        here = Path(directory)
        _allow(here, READABLE | THROUGH)
        for name in files:
            path = here / name
            if not path.is_symlink():
                _allow(path, READABLE | (THROUGH if path.stat().st_mode & stat.S_IXUSR else 0))


def _allow(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)


def _create(name: str) -> Account:
    tool = shutil.which("useradd")
    if tool is None:
        raise StackError(f"PostgreSQL does not run as root and there is no account for it: add a user {name!r}")
    made = subprocess.run(
        [tool, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise StackError(f"PostgreSQL does not run as root, and adding a user failed: {made.stderr.strip()}")
    entry = pwd.getpwnam(name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
