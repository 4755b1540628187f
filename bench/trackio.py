"""trackio as a peer: its client library, which keeps what is logged in SQLite."""

import asyncio
import json
import tempfile
from typing import Final

from bench import peers
from bench.harness import Void

PROBE: Final = peers.ROOT / "bench" / "trackio_probe.py"
PATIENCE_SECONDS: Final = 120.0


async def seconds_to_visible(count: int, every_seconds: float) -> list[float]:
    """Log `count` numbers, one every so often; returns how long each took to be readable. Raises `Void`."""
    with tempfile.TemporaryDirectory(prefix="trackio-") as home:
        probe = await asyncio.create_subprocess_exec(
            str(peers.python("trackio")), "-P", str(PROBE), str(count), str(every_seconds), cwd=home,
            env=peers.environment(home), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(count * every_seconds + PATIENCE_SECONDS):
                said, complaint = await probe.communicate()
        finally:
            if probe.returncode is None:
                probe.kill()
                await probe.wait()
    if probe.returncode != 0:
        raise Void(f"trackio's probe ended with {probe.returncode}: {complaint[-2_000:].decode(errors='replace')}")
    times: list[float] = json.loads(said.splitlines()[-1])
    if len(times) < count:
        raise Void(f"{count} points were logged with trackio, {len(times)} were ever readable")
    return times
