"""The integration tests again, against the images that a deployment would use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def python(*arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=seconds)


@pytest.mark.slow
def test_integration_tests_pass_against_images():
    # Asked in a process of its own: without an engine, the client leaves sockets open.
    asked = python("-c", "import docker; docker.from_env(timeout=5).ping()", seconds=30)
    if asked.returncode:
        pytest.skip(f"no Docker engine answers: {asked.stderr.strip().splitlines()[-1]}")
    done = python("-m", "pytest", "-q", "--servers=containers", "tests/integration", seconds=1800)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
