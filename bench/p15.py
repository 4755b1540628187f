"""P15: `make up` on a warm clone, from the command to where the system says that it is ready.

Warm: the environment is there, and so is what an earlier start left on disk. The first start, which sets up PostgreSQL
and its tables, is measured beside it, and what its parts take alone: a process that loads what it needs and ends.
"""

import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Final

from bench.harness import Result, Void
from bench.peers import ROOT
from stack.ports import free_port
from stack.system import Stack

STARTS: Final = 5
GOAL_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 120.0
PARTS: Final = {
    "`make` without anything to do": ("make", "venv"),
    "loading the stack": (sys.executable, "-c", "import stack.system"),
    "loading what bootstraps": (sys.executable, "-c", "import service.commands.bootstrap"),
    "loading the service": (sys.executable, "-c", "import service.server"),
    "loading the roles": (sys.executable, "-c", "import workers.roles"),
}

_met: Final = {True: "met", False: "not met"}


async def started(home: str) -> float:
    """Start the system, and stop it again; returns the seconds until it said that it was ready. Raises `Void`."""
    ours: Mapping[str, str] = {"TACHOGRAPH_HOME": home, "TACHOGRAPH_PORT": str(free_port())}
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "make", "up", cwd=ROOT, env={**os.environ, **ours}, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for line in process.stdout:
                if b"is ready at" in line:
                    return time.perf_counter() - began
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
            await process.wait()
    raise Void(f"`make up` ended with {process.returncode} before it was ready")


async def alone(command: tuple[str, ...]) -> float:
    """Return the median seconds that a command takes."""
    seconds = []
    for _ in range(STARTS):
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL)
        if await process.wait():
            raise Void(f"{command} ended with {process.returncode}")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure with nothing else running, and return what came of it as notes."""
    stack.stop()
    with tempfile.TemporaryDirectory(prefix="p15-") as home:
        first = await started(home)
        again = [await started(home) for _ in range(STARTS)]
    median = statistics.median(again)
    parts = [f"{name} {await alone(command):.2f} s" for name, command in PARTS.items()]
    return [], [
        (
            f"From `make up` to ready: {median:.2f} s (goal ≤ {GOAL_SECONDS:g} s, {_met[median <= GOAL_SECONDS]}), the"
            f" median of {', '.join(f'{one:.2f}' for one in again)} s. The first start, which sets everything up:"
            f" {first:.1f} s."
        ),
        f"Alone, the medians of {STARTS}: {', '.join(parts)}.",
    ]
