"""`make demo` as a stranger sees it: four runs, four endings, and all of it still there when the system is up again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from stack import Stack
from stack.ports import free_port
from stack.process import ROOT
from tests.api import Project, accepted

SECONDS = 180


@pytest.mark.slow
def test_the_demo_ends_well_and_leaves_everything_behind(own_home: Path, start_stack: Callable[..., Stack]):
    home, port = own_home / "demo", free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TACHOGRAPH_")}
    environment |= {"TACHOGRAPH_HOME": str(home), "TACHOGRAPH_PORT": str(port), "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, "-m", "stack", "demo"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert "\x1b[" not in done.stdout, "without a terminal there are plain lines"
    for ending in ("completed", "killed_by_user", "heartbeat_lost", "exception", "Ledger: verified", "Parquet: "):
        assert ending in done.stdout

    stack = start_stack(home, port, gpu_worker=False)
    given = json.loads((home / "credentials.json").read_text())
    assert (given["url"], (home / "credentials.json").stat().st_mode & 0o777) == (stack.url, 0o600)
    headers = {"X-API-Key": given["api_key"]}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=SECONDS) as client:
        (found,) = accepted(client.get("/projects"))["items"]
        project = Project(client, found)
        runs = accepted(client.get(f"/projects/{project.id}/runs"))["items"]
        assert sorted(run["status"] for run in runs) == ["completed", "crashed", "failed", "killed"]
        assert project.verified()["verified"]
        for run in runs:
            path = f"/runs/{run['id']}"
            (curve,) = accepted(client.get(f"{path}/chart", params={"metric": "train/loss", "buckets": 20_000}))[
                "series"
            ]
            assert curve["points"] > 0
            assert len(set(curve["x"])) == curve["points"] == sum(curve["count"])
            metrics = accepted(client.get(f"{path}/metrics"))["metrics"]
            assert {one["name"]: one["count"] for one in metrics}["train/loss"] == curve["points"]
        completed, failed = (next(run for run in runs if run["status"] == status) for status in ("completed", "failed"))
        assert accepted(client.get(f"/runs/{completed['id']}"))["synced"] is True
        assert "Traceback" in failed["error"]["traceback"]
        lines = accepted(client.get(f"/runs/{failed['id']}/logs"))["lines"]
        assert any("Traceback" in line["text"] for line in lines)
        assert all(run["credits"]["consumed_micro"] > 0 for run in runs if run["mode"] == "managed")
