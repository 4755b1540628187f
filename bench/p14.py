"""P14: the memory of the whole embedded stack: idle, and after P2's load again and again.

PSS: a page that processes share is counted once, in equal parts. Counted are Postgres, NATS, the API and the roles, not
this process, whose clients send the load.
"""

import asyncio
from typing import Final

import asyncpg
import psutil

from bench import corpus, p2
from bench.harness import Result
from stack.system import Stack

SETTLE_SECONDS: Final = 10.0
LOADS: Final = 4
GOAL_BYTES: Final = 450_000_000
FLAT: Final = 1.1
"""The last load may leave at most so many times what the second left."""

_met: Final = {True: "met", False: "not met"}


def pss() -> dict[str, int]:
    """Return the bytes of each kind of process of the stack."""
    found: dict[str, int] = {}
    for child in psutil.Process().children(recursive=True):
        try:
            size, kind = child.memory_full_info().pss, _kind(child)
        except psutil.NoSuchProcess:  # a connection of Postgres that ended
            continue
        found[kind] = found.get(kind, 0) + size
    return found


def _kind(process: psutil.Process) -> str:
    name, command = process.name(), " ".join(process.cmdline())
    if name.startswith("postgres"):
        return "PostgreSQL"
    if name.startswith("nats"):
        return "NATS"
    if "workers roles" in command:
        return "roles"
    return "API" if "service" in command else "rest"


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and return what came of it as notes."""
    await asyncio.sleep(SETTLE_SECONDS)
    idle = pss()
    connection = await asyncpg.connect(stack.postgres.url("postgres"))
    ours = p2.Ours(stack, connection)
    media = "MessagePack"
    bodies = [corpus.body(media, n + 1, p2.METRICS, n * p2.STEPS, p2.STEPS) for n in range(p2.BODIES)]
    after = []
    try:
        for _ in range(LOADS):
            await ours.ingest(media, bodies)
            await asyncio.sleep(SETTLE_SECONDS)
            after.append(pss())
    finally:
        ours.close()
        await connection.close()
    totals = [sum(one.values()) for one in after]
    flat = totals[-1] / totals[LOADS // 2 - 1]
    most = max(totals)
    return [], [
        f"Idle: {_said(idle)}.",
        f"After {LOADS} loads of {p2.POINTS:,} points each: {_said(after[-1])}.",
        (
            f"The most was {most / 1e6:,.0f} MB (goal ≤ {GOAL_BYTES / 1e6:,.0f} MB, {_met[most <= GOAL_BYTES]}); "
            f"the last load left {flat:.2f} times what the second left (goal ≤ {FLAT:g}, {_met[flat <= FLAT]}): "
            + ", ".join(f"{total / 1e6:,.0f}" for total in totals)
            + " MB."
        ),
    ]


def _said(sizes: dict[str, int]) -> str:
    parts = ", ".join(f"{kind} {size / 1e6:,.0f}" for kind, size in sorted(sizes.items()))
    return f"{sum(sizes.values()) / 1e6:,.0f} MB ({parts})"
