"""A round: clients work, things go wrong as the seed has it, everything heals, and every invariant is checked."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from tests.fault.checks import Checks
from tests.fault.cluster import Cluster
from tests.fault.load import Load
from tests.fault.nemeses import NEEDS, NEMESES, Limits, Strike, heal
from tests.fault.operations import Journal, Violation

Say = Callable[[str], None]

BETWEEN_REQUESTS = 30
"""How many requests come to an end between two strikes."""


def schedule(seed: int, limits: Limits, seconds: float, names: Sequence[str] = ()) -> list[Strike]:
    """Draw strikes for about so long, each nemesis once before any comes again; the given names, all of them."""
    random_ = random.Random(seed)
    if names:
        return [NEMESES[name](random_, limits) for name in names]
    strikes: list[Strike] = []
    spent = 0.0
    while spent < seconds:
        some = list(NEMESES)
        random_.shuffle(some)
        for name in some:
            if spent < seconds:
                strikes.append(NEMESES[name](random_, limits))
                spent += limits.most_seconds / 2 + 3.0
    return strikes


async def play(
    cluster: Cluster, seed: int, strikes: Sequence[Strike], say: Say, journal: Path | None = None, until: float = 0.0
) -> None:
    """Play a round. Raises `Violation`, with the seed, for the first invariant that does not hold.

    Past the monotonic time `until`, if there is one, no strike begins any more.
    """
    written = Journal(journal)
    try:
        async with httpx.AsyncClient(
            base_url=cluster.api.base_url,
            headers=cluster.api.headers,
            timeout=5,
            limits=httpx.Limits(max_connections=64),
        ) as http:
            project = await asyncio.to_thread(cluster.project, f"seed {seed} {time.time_ns()}")
            load = await asyncio.to_thread(Load, http, project, written, seed)
            await _strikes(cluster, load, strikes, say, until)
            say(f"healed; {written}")
            holding = time.monotonic()
            await Checks(cluster, load, http).run(say)
            say(f"every invariant holds ({time.monotonic() - holding:.1f} s)")
    except AssertionError as broken:
        raise Violation(f"seed {seed}: {broken}") from broken
    finally:
        written.close()


async def _strikes(cluster: Cluster, load: Load, strikes: Sequence[Strike], say: Say, until: float) -> None:
    began = time.monotonic()
    async with load:
        await load.more(BETWEEN_REQUESTS)
        for number, strike in enumerate(strikes, 1):
            if until and time.monotonic() > until:
                say(f"out of time: {len(strikes) - number + 1} strikes left out")
                break
            needed = NEEDS.get(strike.name, "")
            if needed in cluster.places.missing:
                say(f"SKIPPED {strike.name}: {cluster.places.missing[needed]}")
                continue
            say(f"{time.monotonic() - began:6.1f} s  {number}/{len(strikes)}  {strike.says}")
            load.check()
            came_of_it = await asyncio.to_thread(strike.act, cluster)
            if came_of_it is not None:
                say(f"{time.monotonic() - began:6.1f} s    {came_of_it}")
            await load.more(BETWEEN_REQUESTS)
        await asyncio.to_thread(heal, cluster)
        await load.end()
