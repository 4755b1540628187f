"""What a run brings in before its start and leaves behind after its end."""

import hashlib
import zipfile
from pathlib import Path

import pytest

import tachograph
from tachograph._uploads import PIECE_BYTES
from tests.api import until
from tests.gate import Gate
from tests.integration.gpu.system import System, sh


def test_commands_run_in_order_with_volumes_in_and_out(system: System) -> None:
    volume = system.volume
    (volume / "words").write_text("one two three")
    run = system.start(
        commands=[sh("mkdir out; wc -w < data/words > out/count"), sh("cat count; cp count copy", "out")],
        import_volumes=[{"place": "volume:data", "path": "data"}],
        export_volumes=[{"place": "volume:data/results", "path": "out"}],
    )
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["synced"]) == ("completed", 0, True)
    assert system.texts(run) == ["3"]
    assert (volume / "results" / "copy").read_text() == "3\n"
    assert system.happened(run) == [
        "created",
        "starting",
        *["preparation_reported"] * 2,
        "started",
        "stopping",
        "completed",
    ]


def test_a_later_command_that_fails_ends_the_run_and_what_is_there_is_kept(system: System) -> None:
    run = system.start(
        commands=[sh("echo half > half"), sh("echo broken >&2; exit 4"), sh("echo never")],
        export_volumes=[{"place": "volume:data/half", "path": "half"}],
    )
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exit_code", 4)
    assert ended["error"]["message"] == "exit code 4: broken"
    assert (system.volume / "half").read_text() == "half\n"
    assert system.texts(run) == []


def test_a_run_whose_inputs_are_not_there_fails_before_its_start(system: System) -> None:
    run = system.start("true", import_volumes=[{"place": "volume:elsewhere", "path": "data"}])
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    assert "offers no volume 'elsewhere'; it offers data" in ended["error"]["message"]


def test_a_run_that_completed_without_its_output_has_failed(system: System) -> None:
    run = system.start("true", export_volumes=[{"place": "volume:data/x", "path": "missing"}])
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["error"]["type"]) == ("failed", 0, "ExportFailed")
    assert "missing is not there" in ended["error"]["message"]


def test_a_run_is_killed_while_its_outputs_are_being_stored(system: System) -> None:
    volume = system.volume
    run = system.start(
        "truncate", "-s", "1T", "large", export_volumes=[{"place": "volume:data/large", "path": "large"}]
    )
    system.wait_for(run, "stopping")
    system.client.kill(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")
    until(lambda: not [path for path in volume.iterdir() if "large" in path.name], "the half copy is gone")


def test_a_run_takes_code_and_models_of_other_runs_and_leaves_its_own(system: System, tmp_path: Path) -> None:
    source = system.client.create_run(system.project, mode="tracked")["id"]
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr(
            "train.py",
            "import pathlib\nmodel = pathlib.Path('models/base/w.bin').read_bytes()\n"
            "pathlib.Path('out').mkdir()\npathlib.Path('out/w.bin').write_bytes(model * 2)\n",
        )
    (tmp_path / "w.bin").write_bytes(bytes(range(256)) * 40_000)
    system.client.save_artifact(source, tmp_path / "code.zip", kind="code")
    system.client.save_artifact(source, tmp_path / "w.bin", name="base/w.bin", kind="model")
    run = system.start(
        "python", "train.py",
        code=f"artifact:{source}/code.zip",
        import_volumes=[{"place": f"artifact:{source}/base", "path": "models/base"}],
        export_volumes=[{"place": "artifact:result", "path": "out"}],
    )  # fmt: skip
    ended = system.wait(run)
    assert (ended["status"], ended["error"]) == ("completed", None)
    (saved,) = system.client.artifacts(run)
    assert (saved["name"], saved["bytes"]) == ("result/w.bin", 256 * 80_000)
    again = system.client.download_artifact(run, "result/w.bin", tmp_path / "back.bin")
    assert again.read_bytes() == (tmp_path / "w.bin").read_bytes() * 2
    assert system.happened(run)[-4:] == ["started", "stopping", "artifact_saved", "completed"]


def test_a_download_goes_on_where_it_was_cut_and_a_wrong_name_is_said(system: System, tmp_path: Path) -> None:
    run = system.client.create_run(system.project, mode="tracked")["id"]
    content = bytes(range(256)) * 20_000
    (tmp_path / "a.bin").write_bytes(content)
    system.client.save_artifact(run, tmp_path / "a.bin", caption="a file")
    cut = []

    def once(done: int, total: int) -> None:
        assert total == len(content)
        if not cut:
            cut.append(done)
            raise tachograph.ConnectionFailed("the connection was cut")

    assert system.client.download_artifact(run, "a.bin", tmp_path / "b.bin", progress=once).read_bytes() == content
    assert len(cut) == 1
    with pytest.raises(tachograph.NotFound, match="no artifact"):
        system.client.download_artifact(run, "c.bin", tmp_path / "c.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]


def test_an_upload_goes_on_where_it_was_cut(system: System, tmp_path: Path) -> None:
    run = system.client.create_run(system.project, mode="tracked")["id"]
    part = bytes(range(256)) * (1 << 12)
    content = part * 20 + b"CUT HERE" * 1_000 + part * 20
    (tmp_path / "large.bin").write_bytes(content)
    sent: list[int] = []
    cuts: list[int] = []

    with Gate(system.stack.port) as gate:

        def pause(_seconds: float, _error: tachograph.Error) -> None:
            cuts.append(len(sent))
            gate.open()

        gate.shut_at(b"CUT HERE")
        behind = tachograph.Client(f"http://127.0.0.1:{gate.port}", system.stack.api_key).persisting(pause)
        saved = behind.save_artifact(
            run, tmp_path / "large.bin", kind="model", progress=lambda done, total: sent.append(done)
        )
    assert (saved["name"], saved["bytes"], saved["kind"]) == ("large.bin", len(content), "model")
    assert saved["sha256"] == hashlib.sha256(content).hexdigest()
    assert min(sent[cuts[0] :]) >= PIECE_BYTES, "what was stored is not sent again"
    assert (sent[0] <= PIECE_BYTES, sent[-1]) == (True, len(content))
    back = system.client.download_artifact(run, "large.bin", tmp_path / "back.bin")
    assert back.read_bytes() == content
    again = system.client.save_artifact(run, tmp_path / "large.bin", kind="model")
    assert again["artifact_id"] == saved["artifact_id"]


def test_code_that_is_gone_is_said(system: System) -> None:
    source = system.client.create_run(system.project, mode="tracked")["id"]
    ended = system.wait(system.start("true", code=f"artifact:{source}/code.zip"))
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert "no artifact 'code.zip'" in ended["error"]["message"]
