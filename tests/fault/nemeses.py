"""What goes wrong: each nemesis draws its particulars from the seed, says them, strikes, and makes good again."""

import itertools
import random
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from tests.api import until
from tests.fault.cluster import OURS, PARTS, RECOVERY_SECONDS, ROLES, Cluster
from workers.crashpoints import POINTS

Act = Callable[[Cluster], str | None]
"""Strikes and makes good again; returns what came of it, where the schedule could not know."""

ORDERS = list(itertools.permutations(("postgres", "nats", "service", "roles")))
OFTEN_PASSED = [
    point
    for point in POINTS
    if point.partition(".")[0] in {"relay", "projector", "archiver"}
    and point.partition(".")[2]
    in {"after_publish", "after_note_tails", "after_move_cursor", "after_commit", "after_write", "after_rename"}
] + ["archiver.after_manifest", "purge.after_erase", "purge.after_files", "purge.after_messages", "purge.after_receipt"]


class Strike(NamedTuple):
    """One thing that goes wrong, with all its particulars."""

    name: str
    says: str
    act: Act


class Limits(NamedTuple):
    """How long things may be wrong at a time."""

    least_seconds: float = 1.0
    most_seconds: float = 60.0


def kill(part: str, _: random.Random, __: Limits) -> Strike:
    return Strike(f"kill {part}", f"kill -9 {part}", lambda cluster: cluster.kill(part))


def freeze(part: str, random_: random.Random, limits: Limits) -> Strike:
    seconds = _seconds(random_, limits)

    def act(cluster: Cluster) -> None:
        cluster.freeze(part)
        try:
            time.sleep(seconds)
        finally:
            cluster.thaw(part)

    return Strike(f"freeze {part}", f"SIGSTOP {part} for {seconds:.1f} s, SIGCONT", act)


def die_at_a_step(random_: random.Random, _: Limits) -> Strike:
    point = random_.choice(OFTEN_PASSED)
    role = point.partition(".")[0].replace("purge", "archiver")

    def act(cluster: Cluster) -> str:
        return "it died there" if cluster.kill_at(role, point) else "it did not come there in time"

    return Strike("die at a step", f"{role} dies at {point}, if it comes there", act)


def restart_all(random_: random.Random, _: Limits) -> Strike:
    return restart_in(random_.choice(ORDERS), random_)


def restart_in(order: tuple[str, ...], random_: random.Random) -> Strike:
    """Stop everything, start it in this order; each part waits by itself for what it needs."""
    roles = [*ROLES, "gpu"]
    random_.shuffle(roles)
    parts = [part for group in order for part in (roles if group == "roles" else [group])]
    stopped = list(PARTS)
    random_.shuffle(stopped)
    pauses = [random_.uniform(0, 1.5) for _ in parts]

    def act(cluster: Cluster) -> None:
        for part in stopped:
            cluster.stop(part)
        for part, pause in zip(parts, pauses, strict=True):
            cluster.start(part)
            time.sleep(pause)

    return Strike("restart all", f"stop {', '.join(stopped)}; start {', '.join(parts)}", act)


def restore_older_nats(random_: random.Random, limits: Limits) -> Strike:
    seconds = min(_seconds(random_, limits), 10.0)

    def act(cluster: Cluster) -> None:
        store = cluster.stack.nats.data / "jetstream"
        backup = cluster.stack.home.path / "nats-backup"
        cluster.stop("nats")
        shutil.copytree(store, backup)
        cluster.start("nats")
        time.sleep(seconds)
        cluster.stop("nats")
        for one in store.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        shutil.copytree(backup, store, dirs_exist_ok=True)
        shutil.rmtree(backup)
        cluster.start("nats")

    return Strike("older nats store", f"put back NATS' store as it was {seconds:.1f} s before", act)


def lose_nats(_: random.Random, __: Limits) -> Strike:
    def act(cluster: Cluster) -> None:
        cluster.stop("nats")
        for one in (cluster.stack.nats.data / "jetstream").iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        cluster.start("nats")

    return Strike("lose nats store", "NATS loses its whole store", act)


def cut(side: str, random_: random.Random, limits: Limits) -> Strike:
    seconds = _seconds(random_, limits)

    def act(cluster: Cluster) -> None:
        link = cluster.places.clients if side == "clients" else cluster.places.servers
        assert link is not None
        began = datetime.now(UTC)
        link.down()
        try:
            time.sleep(seconds)
        finally:
            link.up()
            if side == "clients":
                cluster.unheard.append((began, datetime.now(UTC)))

    between = {"clients": "clients and service", "servers": "service, roles and Postgres, NATS"}[side]
    return Strike(f"cut off {side}", f"link down between {between} for {seconds:.1f} s", act)


def fill(disk: str, random_: random.Random, limits: Limits) -> Strike:
    seconds = _seconds(random_, limits)

    def act(cluster: Cluster) -> None:
        place = cluster.places.disks[disk]
        place.fill()
        try:
            time.sleep(seconds)
        finally:
            place.free()
        if disk == "nats":  # it stores nothing more until then, room or no room; the relay says so in /readyz
            cluster.stop("nats")
            cluster.start("nats")

    return Strike(f"fill {disk}", f"the disk of {disk} is full for {seconds:.1f} s", act)


def step_clock(random_: random.Random, limits: Limits) -> Strike:
    seconds = _seconds(random_, limits)
    off = random_.choice([-1, 1]) * random_.choice([61.0, 3_600.0, 86_400.0, 400 * 86_400.0])

    def act(cluster: Cluster) -> None:
        assert cluster.clock is not None
        cluster.clock.step(off)
        try:
            time.sleep(seconds)
        finally:
            cluster.clock.step(0)

    return Strike("step worker's clock", f"the GPU worker's clock is off by {off:+g} s for {seconds:.1f} s", act)


Draw = Callable[[random.Random, Limits], Strike]


def _of(draw: Callable[[str, random.Random, Limits], Strike], what: str) -> Draw:
    return lambda random_, limits: draw(what, random_, limits)


NEMESES: Mapping[str, Draw] = {
    **{f"kill {part}": _of(kill, part) for part in PARTS},
    **{f"freeze {part}": _of(freeze, part) for part in PARTS},
    "die at a step": die_at_a_step,
    "restart all": restart_all,
    "older nats store": restore_older_nats,
    "lose nats store": lose_nats,
    "cut off clients": _of(cut, "clients"),
    "cut off servers": _of(cut, "servers"),
    "step worker's clock": step_clock,
    "fill parquet": _of(fill, "parquet"),
    "fill nats": _of(fill, "nats"),
}
NEEDS: Mapping[str, str] = {
    "cut off clients": "link down",
    "cut off servers": "link down",
    "step worker's clock": "clock step",
    "fill parquet": "full disk",
    "fill nats": "full disk",
}
"""What a machine may not allow; see `places`."""


def heal(cluster: Cluster) -> None:
    """Make good whatever a strike that failed half way left behind, and wait until all are at work."""
    for part in PARTS:
        cluster.thaw(part)
    for link in (cluster.places.clients, cluster.places.servers):
        if link is not None:
            link.up()
    for disk in cluster.places.disks.values():
        disk.free()
    if cluster.clock is not None:
        cluster.clock.step(0)
    for part in PARTS:
        process = cluster.process(part)
        if process.failure is not None:
            raise AssertionError(f"{part} stays down: {process.failure} {process.tail(10)}")
        cluster.start(part)
    until(cluster.is_ready, "everything runs again", RECOVERY_SECONDS)


def _seconds(random_: random.Random, limits: Limits) -> float:
    return random_.uniform(limits.least_seconds, limits.most_seconds)


__all__ = ["NEEDS", "NEMESES", "ORDERS", "OURS", "Limits", "Strike", "heal", "restart_in"]
