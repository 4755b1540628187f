"""trackio as a peer: its client library in an environment of its own, which keeps what is logged in SQLite.

Its pins are not ours, so `make bench` installs it from `bench/trackio.lock` into `.venv-trackio`.
"""

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Final

from bench.harness import Void

ROOT: Final = Path(__file__).resolve().parent.parent
PYTHON: Final = ROOT / ".venv-trackio" / "bin" / "python"
PROBE: Final = ROOT / "bench" / "trackio_probe.py"
PATIENCE_SECONDS: Final = 120.0


def version() -> str:
    """Return which trackio is installed. Raises `Void` where there is none."""
    found = next(ROOT.glob(".venv-trackio/lib/python*/site-packages/trackio-*.dist-info"), None)
    if found is None or not PYTHON.exists():
        raise Void(f"{PYTHON} has no trackio; `make bench` installs it")
    return found.name.removeprefix("trackio-").removesuffix(".dist-info")


async def seconds_to_visible(count: int, every_seconds: float) -> list[float]:
    """Log `count` numbers, one every so often; returns how long each took to be readable. Raises `Void`."""
    with tempfile.TemporaryDirectory(prefix="trackio-") as home:
        private = {"HOME": home, "TRACKIO_DIR": f"{home}/trackio", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        probe = await asyncio.create_subprocess_exec(
            str(PYTHON), "-P", str(PROBE), str(count), str(every_seconds), cwd=home, env={**os.environ, **private},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
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
