"""Places whose network or disk a test may take away: a namespace with links of its own, small disks.

Both need root and a kernel that allows them. Where that is not so, `Unavailable` says why, and what needs them is
skipped, loudly. Everything made here is removed at the end, however it ends.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex


class Unavailable(Exception):
    """This machine does not let us; the message says why."""


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        raise Unavailable(f"there is no program {command[0]!r} (Debian: iproute2, mount)") from None
    if done.returncode:
        raise Unavailable(f"`{' '.join(command)}`: {done.stderr.strip() or done.returncode}")


class Link:
    """A cable between us and a namespace: `ours` and `theirs` are the addresses of its ends."""

    def __init__(self, namespace: str, device: str, ours: str, theirs: str) -> None:
        self.namespace = namespace
        self.device = device
        self.ours = ours
        self.theirs = theirs

    def down(self) -> None:
        """Pull the plug: connections are not told."""
        _run("ip", "-n", self.namespace, "link", "set", f"{self.device}b", "down")

    def up(self) -> None:
        _run("ip", "-n", self.namespace, "link", "set", f"{self.device}b", "up")


class Namespace:
    """A network namespace with a loopback of its own and nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prefix = ["ip", "netns", "exec", name]

    @contextmanager
    def link(self) -> Iterator[Link]:
        """Lay a cable to it."""
        number = int.from_bytes(os.urandom(2), "big")
        network = f"10.{200 + (number >> 14)}.{number >> 6 & 255}.{number << 2 & 255}".rsplit(".", 1)
        ours, theirs = (f"{network[0]}.{int(network[1]) + one}" for one in (1, 2))
        device = f"tg{token_hex(4)}"
        _run("ip", "link", "add", f"{device}a", "type", "veth", "peer", "name", f"{device}b")
        try:
            _run("ip", "link", "set", f"{device}b", "netns", self.name)
            _run("ip", "addr", "add", f"{ours}/30", "dev", f"{device}a")
            _run("ip", "link", "set", f"{device}a", "up")
            _run("ip", "-n", self.name, "addr", "add", f"{theirs}/30", "dev", f"{device}b")
            _run("ip", "-n", self.name, "link", "set", f"{device}b", "up")
            yield Link(self.name, device, ours, theirs)
        finally:
            subprocess.run(["ip", "link", "del", f"{device}a"], check=False, timeout=10)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a network namespace. Raises `Unavailable`."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces take root")
    name = f"tachograph-{token_hex(4)}"
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, timeout=10)


class Disk:
    """A small file system that can be filled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / ".filler"

    def fill(self) -> None:
        """Leave no byte free."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        block = bytes(1 << 16)
        try:
            while block:
                try:
                    os.write(descriptor, block)
                except OSError:
                    block = block[: len(block) // 2]
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """Mount a small file system. Raises `Unavailable`."""
    if os.geteuid() != 0:
        raise Unavailable("mounting takes root")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tachograph-fault", str(path))
    try:
        yield Disk(path)
    finally:
        done = subprocess.run(["umount", str(path)], capture_output=True, check=False, timeout=10)
        if done.returncode:  # somebody is still in it: it goes once they have gone
            subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)


class Places:
    """What this machine allows, and why it does not allow the rest."""

    def __init__(self) -> None:
        self.disks: dict[str, Disk] = {}
        self.namespace: Namespace | None = None
        self.clients: Link | None = None
        self.servers: Link | None = None
        self.missing: dict[str, str] = {}


@contextmanager
def places(home: Path) -> Iterator[Places]:
    """Make all that can be made for a cluster in `home`."""
    with ExitStack() as stack:
        found = Places()
        try:
            for name, path in (("parquet", home / "parquet"), ("nats", home / "nats" / "jetstream")):
                found.disks[name] = stack.enter_context(small_disk(path, 48))
        except Unavailable as error:
            found.missing["full disk"] = str(error)
        try:
            made = stack.enter_context(namespace())
            found.clients, found.servers = stack.enter_context(made.link()), stack.enter_context(made.link())
            found.namespace = made
        except Unavailable as error:
            found.missing["link down"] = str(error)
        yield found
