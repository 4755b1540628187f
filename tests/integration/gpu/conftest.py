"""A stack with a GPU worker for each module, and a project of its own for each test."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from stack import Stack
from stack.ports import free_port
from tests.gate import Gate
from tests.integration.gpu.system import Gates, System
from workers.gpu.process import Shim
from workers.gpu.records import RunDirectory
from workers.gpu.settings import CALL_SECONDS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "TACHOGRAPH_WORKER_SLOTS": "2",
        "TACHOGRAPH_WORKER_METRICS_SECONDS": "0.2",
        "TACHOGRAPH_WORKER_VOLUMES": f"data={tmp_path_factory.mktemp('volume')}",
        "A_SECRET": "hush",
        "AWS_SECRET_ACCESS_KEY": "the object store's",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with Stack(tmp_path_factory.mktemp("gpu-worker"), free_port(), environment=environment) as stack:
        yield stack


@pytest.fixture
def system(running: Stack) -> Iterator[System]:
    system = System(running)
    with system.client:
        yield system
    for run in system.runs:
        Shim(RunDirectory(running.home.path), run).sweep()


@pytest.fixture
def gates(system: System) -> Iterator[Gates]:
    """The worker behind gates that the test may shut."""
    nats_url = system.worker.environment["TACHOGRAPH_NATS_URL"]
    nats_port = urlsplit(nats_url).port
    with Gate(system.stack.port) as api, Gate(nats_port) as nats:
        behind = {
            "TACHOGRAPH_URL": system.stack.url.replace(str(system.stack.port), str(api.port)),
            "TACHOGRAPH_NATS_URL": nats_url.replace(str(nats_port), str(nats.port)),
            CALL_SECONDS: "2",
        }
        with system.worker_with(**behind):
            yield Gates(api, nats)


@pytest.fixture
def model(system: System, tmp_path: Path) -> str:
    """A run that has left a model."""
    run = system.client.create_run(system.project, mode="tracked")["id"]
    (tmp_path / "w.bin").write_bytes(bytes(range(256)) * 4_000)
    system.client.save_artifact(run, tmp_path / "w.bin", name="base/w.bin", kind="model")
    return run
