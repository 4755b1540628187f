"""P1: `log()` of ten numbers in the caller's thread, against wandb offline and trackio; and what a kill costs.

Each library logs in a program of its own, once a millisecond and as fast as it goes: every call is timed. Ours sends to
this system meanwhile, or finds it gone after `init`, and then keeps a journal. What a round gives is the median and
the 999th of 1,000 calls.

Then programs log once a millisecond, each noting beside it what it has logged, and are killed with SIGKILL; some while
the service is away. What they left is delivered by the next program that takes the run over, or by `sync`.
"""

import asyncio
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import tachograph
from bench import peers
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged
from stack.system import Stack

PROBE: Final = peers.ROOT / "bench" / "log_probe.py"
VICTIM: Final = peers.ROOT / "bench" / "kill_probe.py"
ROUNDS: Final = 5
PACED: Final = (2_000, 0.001)
FLAT_OUT: Final = (20_000, 0.0)
PACES: Final = {"once a ms": PACED, "flat out": FLAT_OUT}
PATIENCE_SECONDS: Final = 120.0

KILLS: Final = 20
AWAY_EVERY: Final = 4
"""Every so many kills come while the service is away."""
WITHIN_SECONDS: Final = 0.1
READY_SECONDS: Final = 60.0


def program_environment(stack: Stack, home: str) -> Mapping[str, str]:
    """Return the variables of a program, whichever library it uses."""
    assert stack.api_key is not None
    ours = {"TACHOGRAPH_URL": stack.url, "TACHOGRAPH_API_KEY": stack.api_key, "TACHOGRAPH_HOME": home}
    return {**peers.environment(home), **ours}


@asynccontextmanager
async def program(
    stack: Stack, home: str, python: str, *arguments: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamWriter, asyncio.StreamReader]]:
    """Start a program and wait until it says that it is ready. Raises `Void`."""
    process = await asyncio.create_subprocess_exec(
        python, "-P", *arguments, cwd=home, env=program_environment(stack, home),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018 (both or neither)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (line := await process.stdout.readline()) and line != b"ready\n":
                pass
        if not line:
            raise Void(f"{' '.join(arguments)} ended with {await process.wait()}")
        yield process, process.stdin, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def away(stack: Stack, *, gone: bool) -> AsyncIterator[None]:
    """Stop the service for a while."""
    service = stack.processes["service"]
    if gone:
        service.stop()
    try:
        yield
    finally:
        if gone:
            service.start()
            await answering(stack)


async def answering(stack: Stack) -> None:
    """Wait until the service takes requests again. Raises `Void`."""
    give_up = time.monotonic() + READY_SECONDS
    with tachograph.Client(stack.url, stack.api_key) as client:
        while time.monotonic() < give_up:
            try:
                client.request("GET", "/me", retry_seconds=0)
            except tachograph.Error:
                await asyncio.sleep(0.05)
            else:
                return
    raise Void("the service did not come back")


async def timed(stack: Stack, library: str, calls: int, every: float, *, gone: bool) -> tuple[Sample, Sample]:
    """Return what the median and the 999th of 1,000 calls took; the CPU is that of everything, per call."""
    python = sys.executable if library == "tachograph" else str(peers.python(library))
    with tempfile.TemporaryDirectory(prefix="p1-") as home:
        arguments = (str(PROBE), library, str(calls), str(every))
        async with program(stack, home, python, *arguments) as (process, to, out):
            watch = Stopwatch()
            async with away(stack, gone=gone):
                to.write(b"go\n")
                to.write_eof()
                async with asyncio.timeout(PATIENCE_SECONDS):
                    *_, last = (await out.read()).splitlines()
                    await process.wait()
            cpu = watch.sample(calls).cpu_seconds / calls
    nanoseconds = sorted(json.loads(last))
    return (
        Sample(1, nanoseconds[calls // 2] / 1e9, cpu),
        Sample(1, nanoseconds[int(calls * 0.999)] / 1e9, cpu),
    )


async def calls(stack: Stack) -> list[Result]:
    """Let the libraries take turns at both paces."""
    contestants = {
        "ours": ("tachograph", False),
        "ours, service away": ("tachograph", True),
        "wandb": ("wandb", False),
        "trackio": ("trackio", False),
    }
    found = []
    for pace, (number, every) in PACES.items():
        medians: list[dict[str, Sample]] = []
        tails: list[dict[str, Sample]] = []
        for turn in range(ROUNDS):
            order = list(contestants.items())[:: 1 if turn % 2 else -1]
            both = {name: await timed(stack, lib, number, every, gone=gone) for name, (lib, gone) in order}
            medians.append({name: one[0] for name, one in both.items()})
            tails.append({name: one[1] for name, one in both.items()})
        for name in ("ours", "ours, service away"):
            for what, against, goal, measured in (
                ("median", "wandb", 0.1, medians),
                ("median", "trackio", 0.6, medians),
                ("p99.9", "trackio", 1.0, tails),
                ("p99.9", "wandb", None, tails),
            ):
                line = Comparison(
                    what=f"log() {pace}, {what}{name.removeprefix('ours')}",
                    ours=name,
                    against=against,
                    unit="calls",
                    goal=goal,
                    durations=True,
                )
                found.append(judged(line, measured))
    return found


async def killed(stack: Stack, seed: int) -> float:
    """Kill a program, deliver what it left, and check; returns how long before the kill the first lost row was logged.

    Raises `Void` where rows are missing that were logged earlier than allowed, came twice, or out of order.
    """
    chance = random.Random(seed)
    gone = seed % AWAY_EVERY == 0
    with tempfile.TemporaryDirectory(prefix="p1-kill-") as home:
        noted = Path(home) / "noted"
        async with program(stack, home, sys.executable, str(VICTIM), f"victim-{seed}", str(noted)) as (
            process,
            to,
            out,
        ):
            run_id = (await out.readline()).decode().strip()
            async with away(stack, gone=gone):
                to.write(b"go\n")
                await asyncio.sleep(chance.uniform(0.3, 2.0))
                at = time.time_ns()
                process.kill()
                await process.wait()
        with tachograph.Client(stack.url, stack.api_key) as client:
            if seed % 2:
                await again(stack, home, f"victim-{seed}")
            else:
                tachograph.sync(Path(home) / "spool", url=stack.url, api_key=stack.api_key)
            there = [
                step
                for event in client.events(run=run_id, types=["run.metrics_logged"])
                for step in event["data"]["series"]["row"]["step"]
            ]
        times = [
            time_ns for (time_ns,) in struct.iter_unpack("<q", noted.read_bytes()[: noted.stat().st_size // 8 * 8])
        ]
    if there != list(range(len(there))):
        raise Void(f"kill {seed}: rows came twice, not at all, or out of order: {there[:20]}…")
    lost = (at - times[len(there)]) / 1e9 if len(there) < len(times) else 0.0
    if lost > WITHIN_SECONDS:
        raise Void(f"kill {seed}: a row that was logged {lost * 1e3:.0f} ms before is missing")
    return lost


async def again(stack: Stack, home: str, external_id: str) -> None:
    """Have another program take the run over, which delivers what the first left; it logs nothing."""
    async with program(stack, home, sys.executable, str(VICTIM), external_id, os.devnull) as (process, to, _):
        to.write_eof()
        await process.wait()


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and return what came of it."""
    versions = ", ".join(f"{name} {peers.version(name)}" for name in ("wandb", "trackio"))
    results = await calls(stack)
    lost = [await killed(stack, seed) for seed in range(KILLS)]
    return results, [
        (
            f"{versions}. Of {PACED[0]:,} calls once a millisecond and {FLAT_OUT[0]:,} flat out; the CPU-seconds are"
            " those of the program from its first call to its end, and of all of this system meanwhile, a call. Where"
            " the service is away, they have its end and its next start, too."
        ),
        (
            f"{KILLS} programs that logged once a millisecond were killed at random moments,"
            f" {KILLS // AWAY_EVERY} of them while the service was away: everything logged more than"
            f" {WITHIN_SECONDS * 1e3:.0f} ms before arrived, once and in order. The first row that did not was logged"
            f" {max(lost) * 1e3:.0f} ms before the kill at most, {sorted(lost)[KILLS // 2] * 1e3:.0f} ms in the median."
        ),
    ]
