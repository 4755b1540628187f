"""Archives taken out and brought in by the client and by the commands with `--url`: whole, once, over every cut."""

import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import tachograph
from events.ids import uuid7
from stack.ports import free_port
from stack.process import ROOT
from tests.api import Api, Json, Project, accepted, serving
from tests.integration.archiving import content
from tests.servers import NatsServer, PostgresServer

MIB = 1 << 20
WEIGHTS = 20 * MIB
"""More than one piece of an upload."""


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    environment = {
        "TACHOGRAPH_MAX_PROJECT_BYTES": str(64 * MIB),
        "TACHOGRAPH_OBJECT_STORE": str(servers_home / f"objects-{uuid7()}"),
    }
    with serving(postgres_server, nats_server, servers_home, environment=environment) as api:
        yield api


@pytest.fixture(scope="module")
def client(api: Api) -> Iterator[tachograph.Client]:
    with tachograph.Client(api.url, api.key, retry_seconds=60) as client:
        yield client


@pytest.fixture(scope="module")
def filled(api: Api) -> Project:
    project = api.project()
    first = project.started(name="it's first")
    accepted(project.log(first, 1, {"loss": {"step": [0, 1, 2], "value": [0.5, "NaN", 1e-320]}}), 202)
    data = random.Random(1).randbytes(WEIGHTS)
    accepted(api.client.put(f"/runs/{first['id']}/artifacts/weights.bin", content=data), 201)
    accepted(api.client.post(f"/runs/{first['id']}/finish", json={"epoch": 1, "status": "completed"}))
    project.finished(name="second")
    return project


@pytest.fixture(scope="module")
def archive(client: tachograph.Client, filled: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archives") / "p.zip"
    client.export_archive(path, project=filled.id, artifacts=True)
    return path


class Seen:
    """The stages that a transfer told, and something to do once, on the way."""

    def __init__(self, stage: str = "", past: int = 0, then: Callable[[], object] = lambda: None) -> None:
        self.told: list[tuple[str, int, int]] = []
        self._due = (stage, past, then)

    def __call__(self, what: str, done: int, total: int) -> None:
        self.told.append((what, done, total))
        stage, past, then = self._due
        if what == stage and done > past:
            self._due = ("", 0, then)
            then()

    def of(self, stage: str) -> list[int]:
        return [done for what, done, _ in self.told if what == stage]


def kill(api: Api) -> None:
    pid = api.processes["service"].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_project_comes_out_and_goes_in_once(
    client: tachograph.Client, project: Project, filled: Project, archive: Path
) -> None:
    seen = Seen()
    job = client.import_archive(project.id, archive, progress=seen)
    assert (job["state"], job["report"]["counts"], job["report"]["artifacts"]) == ("finished", {"new": 2}, 1)
    size = archive.stat().st_size
    assert [(one, of[-1]) for one in ("read", "sent") if (of := seen.of(one))] == [("read", size), ("sent", size)]
    before = project.head()
    again = client.import_archive(project.name, archive)
    assert again["id"] != job["id"], "what has ended is looked at anew"
    assert again["report"]["counts"] == {"already there": 2}
    assert client.import_archive(project.id, archive, dry_run=True)["report"]["counts"] == {"readable": 2}
    assert project.head() == before
    there = archive.with_name("there.zip")
    manifest = client.export_archive(there, project=project.id, artifacts=True)
    assert (manifest["project"], len(manifest["runs"])) == (project.name, 2)
    assert content(there.read_bytes()) == content(archive.read_bytes())
    assert len(list(client.imports(project.id))) == 3
    client.discard_import(project.id, job["id"])
    with pytest.raises(tachograph.NotFound):
        client.import_job(project.id, job["id"])


def test_one_run_comes_out_alone(client: tachograph.Client, filled: Project, tmp_path: Path) -> None:
    run = next(client.runs(filled.id, filter="name = 'second'"))
    manifest = client.export_archive(tmp_path / "r.zip", run=run["id"])
    assert [one["name"] for one in manifest["runs"]] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.zip"]
    with pytest.raises(TypeError):
        client.export_archive(tmp_path / "r.zip", run=run["id"], project=filled.id)


def test_a_service_that_is_killed_in_an_upload_is_waited_for_and_goes_on(
    api: Api, client: tachograph.Client, project: Project, archive: Path
) -> None:
    seen = Seen("sent", 17 * MIB, lambda: kill(api))
    job = client.import_archive(project.id, archive, progress=seen)
    assert job["report"]["counts"] == {"new": 2}
    sent = seen.of("sent")
    back = next(after for before, after in pairwise(sent) if after < before)
    assert back >= 16 * MIB, "the first piece was durable, and is not sent again"


def test_a_service_that_is_killed_in_an_export_is_asked_anew(
    api: Api, client: tachograph.Client, filled: Project, archive: Path, tmp_path: Path
) -> None:
    seen = Seen("received", 2 * MIB, lambda: kill(api))
    client.export_archive(tmp_path / "p.zip", project=filled.id, artifacts=True, progress=seen)
    received = seen.of("received")
    assert any(after < before for before, after in pairwise(received))
    assert content((tmp_path / "p.zip").read_bytes()) == content(archive.read_bytes())


def test_a_process_that_died_leaves_an_upload_that_the_next_goes_on_with(
    client: tachograph.Client, project: Project, archive: Path
) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.import_archive(project.id, archive, progress=Seen("sent", 17 * MIB, die))
    (left,) = client.imports(project.id)
    assert (left["state"], left["offset"]) == ("uploading", 16 * MIB)
    seen = Seen()
    assert client.import_archive(project.id, archive, progress=seen)["id"] == left["id"]
    assert min(seen.of("sent")) > 16 * MIB


def test_what_is_no_archive_is_not_sent(client: tachograph.Client, project: Project, archive: Path) -> None:
    cut = archive.with_name("cut.zip")
    cut.write_bytes(archive.read_bytes()[:-100])
    other = archive.with_name("other.zip")
    with zipfile.ZipFile(other, "w") as made:
        made.writestr("a", "b")
    for path in (cut, other):
        with pytest.raises(tachograph.ImportFailed, match="is no archive of an export, or its end is missing"):
            client.import_archive(project.id, path)
    assert list(client.imports(project.id)) == []
    with pytest.raises(FileNotFoundError):
        client.import_archive(project.id, archive.with_name("none.zip"))
    with pytest.raises(tachograph.NotFound):
        client.import_archive(str(uuid7()), archive)


def test_a_damaged_archive_fails_with_the_services_reason(
    client: tachograph.Client, project: Project, archive: Path
) -> None:
    damaged = archive.with_name("damaged.zip")
    damaged.write_bytes(archive.read_bytes().replace(b"run.created", b"run.creatEd", 1))
    with pytest.raises(tachograph.ImportFailed, match="SHA-256 differs") as failed:
        client.import_archive(project.id, damaged)
    assert failed.value.job is not None
    assert failed.value.job["state"] == "failed"
    assert list(client.runs(project.id)) == []


def test_an_archive_over_the_quota_is_refused_before_it_is_sent(
    api: Api, client: tachograph.Client, project: Project, archive: Path
) -> None:
    large = archive.with_name("large.zip")
    with zipfile.ZipFile(large, "w") as made, made.open("padding", "w") as file:
        file.write(b"\0" * 65 * MIB)
    with zipfile.ZipFile(large, "a") as made:
        made.writestr("manifest.json", "{}")
    with pytest.raises(tachograph.ServerError) as refused:
        client.import_archive(project.id, large)
    assert (refused.value.status, refused.value.limit) == (507, 64 * MIB)


def command(api: Api, *arguments: object, url: str | None = None) -> tuple[int, str, str]:
    """Run a command that has a key, and no database."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TACHOGRAPH_")}
    done = subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments), "--url", url or api.url],
        cwd=ROOT, env={**inherited, "TACHOGRAPH_API_KEY": api.key}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_the_commands_do_the_same_from_anywhere(api: Api, filled: Project, archive: Path, tmp_path: Path) -> None:
    path, name = tmp_path / "p.zip", f"new-{uuid7()}"
    status, said, _ = command(api, "export", "--project", filled.name, "--artifacts", "-o", path, "--json")
    assert status == 0
    told: Json = json.loads(said)
    assert (told["project"], told["runs"], told["bytes"]) == (filled.name, 2, path.stat().st_size)
    assert content(path.read_bytes()) == content(archive.read_bytes())
    status, said, _ = command(api, "export", "--project", filled.id, "--run", "it's first", "-o", tmp_path / "r.zip")
    assert (status, f"{tmp_path / 'r.zip'}: 1 runs of {filled.name}" in said) == (0, True)

    status, said, told_off = command(api, "import", path, "--project", name)
    assert (status, said) == (2, "")
    assert f"there is no project '{name}'" in told_off
    status, said, _ = command(api, "import", path, "--project", name, "--create")
    assert status == 0
    assert said.splitlines()[-1].endswith(": 2 new, 0 continued, 0 already there, 0 refused")
    status, said, _ = command(api, "import", path, "--project", name, "--json")
    assert (status, json.loads(said)["report"]["counts"]) == (0, {"already there": 2})
    twice = f"second-{uuid7()}"
    accepted(api.client.post("/projects", json={"name": twice}), 201)
    accepted(api.client.post(f"/projects/{twice}/runs", json={"name": "second"}), 201)
    status, said, _ = command(api, "import", path, "--project", twice, "--json")
    (left_out,) = json.loads(said)["left_out"].values()
    assert left_out[0].startswith("its name: another run here has it, so it is 'second-")
    run = next(iter(accepted(api.client.get(f"/projects/{name}/runs"))["items"]))
    accepted(api.client.delete(f"/runs/{run['id']}"))
    status, said, _ = command(api, "import", path, "--project", name)
    assert status == 1
    assert "it was here and was deleted; what was deleted is not brought back" in said


def test_the_commands_say_what_is_wrong(api: Api, tmp_path: Path) -> None:
    status, _, told = command(api, "import", tmp_path, "--project", "p")
    assert (status, "looks like nothing that can be imported" in told) == (2, True)
    (tmp_path / "no.zip").write_bytes(b"no")
    status, _, told = command(api, "import", tmp_path / "no.zip", "--project", "p")
    assert (status, "is no ZIP file, or its end is missing" in told) == (2, True)
    url = f"http://127.0.0.1:{free_port()}"
    status, _, told = command(api, "export", "--project", "p", url=url)
    assert (status, url in told) == (2, True)
    assert len(told.splitlines()) == 1
