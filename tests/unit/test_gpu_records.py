"""What is kept on disk of a run."""

import os
from pathlib import Path

import msgspec
import pytest

from workers.gpu.records import Exit, Kill, Phase, RunDirectory, RunRecord, prune


def record(run_id: str = "r") -> RunRecord:
    return RunRecord(run_id=run_id, command_id="c", worker_id="w", slots=("cpu:0",), deadline_us=1)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    return directory


def test_a_record_comes_back_as_it_was(directory: RunDirectory) -> None:
    assert directory.load() is None
    saved = record()
    saved.phase, saved.token, saved.kill = Phase.CLAIMED, "tgr_x", Kill("killed_by_user", 3.0, 7)
    directory.save(saved)
    assert directory.load() == saved


def test_the_token_is_for_the_owners_eyes_only(directory: RunDirectory) -> None:
    directory.save(record())
    assert (directory.path / "run.json").stat().st_mode & 0o077 == 0
    assert directory.path.stat().st_mode & 0o077 == 0


def test_a_damaged_record_is_an_error_and_not_no_record(directory: RunDirectory) -> None:
    (directory.path / "run.json").write_text("{")
    with pytest.raises(msgspec.DecodeError):
        directory.load()


def test_a_free_lock_means_no_shim(directory: RunDirectory) -> None:
    assert not directory.shim_lives()
    directory.lock.touch()
    assert not directory.shim_lives()


def test_what_the_program_left_survives_the_record_and_nothing_else_does(directory: RunDirectory) -> None:
    directory.save(record())
    directory.write_exit(Exit(ended_at_us=1))
    directory.stdout.write_text("private")
    (directory.work / "model.bin").write_text("weights")
    directory.forget()
    assert [path.name for path in directory.path.iterdir()] == ["work"]


def test_an_empty_directory_goes_altogether(directory: RunDirectory) -> None:
    directory.save(record())
    directory.forget()
    assert not directory.path.exists()


def test_the_youngest_of_the_forgotten_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        RunDirectory(tmp_path / f"old-{age}").create()
        os.utime(tmp_path / f"old-{age}", (1e9 - age, 1e9 - age))
    RunDirectory(tmp_path / "fresh").create()
    live = RunDirectory(tmp_path / "live")
    live.create()
    live.save(record("live"))
    os.utime(live.path, (1, 1))
    prune(tmp_path, keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "live", "old-0", "old-1"]
    prune(tmp_path, keep=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "live"]


def test_the_end_of_an_output_is_read_and_no_more(directory: RunDirectory) -> None:
    assert directory.tail(directory.stderr, 10) == ""
    directory.stderr.write_bytes(b"x" * 100 + b"\xff the end")
    assert directory.tail(directory.stderr, 9) == "\ufffd the end"
