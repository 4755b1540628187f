"""Parts are killed while clients log. Once all run again: what was acknowledged is everywhere exactly once."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from tests.api import until
from tests.fault.checks import everything_is_there_exactly_once
from tests.fault.cluster import Cluster, running_cluster
from tests.fault.load import Load

pytestmark = pytest.mark.slow

BEFORE = AFTER = 100

FAULTS: dict[str, Callable[[Cluster], None]] = {
    "relay": lambda cluster: cluster.kill("relay"),
    "archiver": lambda cluster: cluster.kill("archiver"),
    "projector": lambda cluster: cluster.kill("projector"),
    "nats": lambda cluster: cluster.kill("nats"),
    "service": lambda cluster: cluster.kill("service"),
    "postgres": lambda cluster: cluster.kill("postgres"),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=cluster.api.base_url, headers=cluster.api.headers, timeout=30) as client:
        yield client


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_was_acknowledged_is_everywhere_once_after_the_death_of(
    cluster: Cluster, http: httpx.AsyncClient, fault: str
):
    seed = list(FAULTS).index(fault)
    async with Load(http, cluster.project(f"death of {fault}"), seed) as load:
        await load.more(BEFORE)
        await asyncio.to_thread(FAULTS[fault], cluster)
        await load.more(AFTER)
        await load.end()
    await asyncio.to_thread(until, cluster.is_ready, "everything runs again")
    await everything_is_there_exactly_once(cluster, load, http)


@pytest.mark.parametrize("seed", [98, 99])
async def test_what_was_acknowledged_is_everywhere_once_after_many_deaths_in_a_row(
    cluster: Cluster, http: httpx.AsyncClient, seed: int
):
    faults = list(FAULTS)
    random.Random(seed).shuffle(faults)
    async with Load(http, cluster.project(f"many deaths, {seed}"), seed) as load:
        for fault in faults:
            await load.more(BEFORE // 4)
            await asyncio.to_thread(FAULTS[fault], cluster)
        await load.more(AFTER)
        await load.end()
    await asyncio.to_thread(until, cluster.is_ready, "everything runs again")
    assert sum(client.repeated for client in load.clients) > 0, "no request was ever in doubt"
    await everything_is_there_exactly_once(cluster, load, http)
