"""A short round of `make faults`: every kind of fault once, while clients work; then every invariant is checked."""

import random
from collections.abc import Iterator

import pytest

from tests.fault.cluster import PARTS, Cluster, running_cluster
from tests.fault.nemeses import NEEDS, NEMESES, Limits
from tests.fault.suite import play, schedule

FREEZES = 3
"""How many parts are frozen in a short round; `make faults` freezes them all, and for longer."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


def drawn(seed: int) -> list[str]:
    """Return a round's nemeses in its order."""
    random_ = random.Random(seed)
    frozen = {f"freeze {part}" for part in random_.sample(PARTS, FREEZES)}
    names = [name for name in NEMESES if not name.startswith("freeze ") or name in frozen]
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


def test_a_schedule_follows_from_its_seed() -> None:
    def says(seed: int) -> list[str]:
        return [strike.says for strike in schedule(seed, Limits(), 600.0)]

    assert says(7) == says(7)
    assert says(7) != says(8)
    assert {strike.name for strike in schedule(7, Limits(most_seconds=2.0), 600.0)} == set(NEMESES)
