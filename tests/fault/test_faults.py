"""A short round of `make faults`: every kind of fault once, while clients work; then every invariant is checked."""

import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.api import accepted, until
from tests.fault.cluster import PARTS, Cluster, running_cluster
from tests.fault.nemeses import NEEDS, NEMESES, Limits
from tests.fault.suite import play, schedule

FREEZES = 2
"""How many parts are frozen in a short round; `make faults` freezes them all, and for longer."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


def drawn(seed: int) -> list[str]:
    """Return a round's nemeses in its order."""
    random_ = random.Random(seed)
    frozen = {f"freeze {part}" for part in random_.sample(PARTS, FREEZES)}
    left_out = {name for name in NEMESES if name.startswith("freeze ")} - frozen | {"lose nats store"}
    names = [name for name in NEMESES if name not in left_out]
    random_.shuffle(names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
async def test_every_invariant_holds_after_all_kinds_of_faults(cluster: Cluster, seed: int) -> None:
    said: list[str] = []
    strikes = schedule(seed, Limits(most_seconds=2.0), 0.0, drawn(seed))
    await play(cluster, seed, strikes, said.append)
    assert sum("holds: " in line for line in said) >= 12


@pytest.mark.parametrize("what", sorted(set(NEEDS.values())))
def test_this_machine_lets_us_do_it(cluster: Cluster, what: str) -> None:
    if what in cluster.places.missing:
        pytest.skip(f"{what.upper()} IS NOT TESTED HERE: {cluster.places.missing[what]}")


@pytest.mark.parametrize("days", [-400, 400])
def test_a_worker_whose_clock_is_far_off_starts_runs_all_the_same(cluster: Cluster, days: int) -> None:
    if cluster.clock is None:
        pytest.skip(f"A CLOCK STEP IS NOT TESTED HERE: {cluster.places.missing['clock step']}")
    project = cluster.project(f"clock off by {days} days")
    cluster.clock.step(days * 86_400.0)
    try:
        run = project.create(command=[sys.executable, "-c", "print('here')"])
        path = f"/runs/{run['id']}"
        until(lambda: accepted(project.api.get(path))["status"] == "completed", "the run completes")
    finally:
        cluster.clock.step(0.0)
    (ended,) = [event for event in project.events(run) if event["type"] == "run.completed"]
    assert abs(datetime.fromisoformat(ended["recordedat"]) - datetime.now(UTC)) < timedelta(days=1)


def test_a_schedule_follows_from_its_seed() -> None:
    def says(seed: int) -> list[str]:
        return [strike.says for strike in schedule(seed, Limits(), 600.0)]

    assert says(7) == says(7)
    assert says(7) != says(8)
    assert {strike.name for strike in schedule(7, Limits(most_seconds=2.0), 600.0)} == set(NEMESES)
