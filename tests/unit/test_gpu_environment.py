"""What a program sees of the worker's environment, and what the worker reads from it."""

from pathlib import Path

import pytest

from events.settings import SettingsError
from workers.gpu.environment import MissingSecret, base_environment, identity, program_environment, resolve_secrets
from workers.gpu.records import RunDirectory
from workers.gpu.settings import from_environment

OWN = {
    "PATH": "/usr/bin",
    "HOME": "/home/x",
    "LC_ALL": "C",
    "HF_TOKEN": "s3cret",
    "TACHOGRAPH_API_KEY": "tg_key",
    "AWS_SECRET_ACCESS_KEY": "aws",
}


def test_only_what_is_listed_is_passed_on() -> None:
    assert base_environment(OWN, None) == {"PATH": "/usr/bin", "HOME": "/home/x", "LC_ALL": "C"}


def test_python_is_the_workers_own() -> None:
    environment = base_environment(OWN, Path("/venv"))
    assert environment["PATH"] == "/venv/bin:/usr/bin"
    assert environment["VIRTUAL_ENV"] == "/venv"


def test_secrets_are_looked_up_by_name() -> None:
    assert resolve_secrets(["HF_TOKEN"], OWN) == {"HF_TOKEN": "s3cret"}


@pytest.mark.parametrize("name", ["NOT_THERE", "TACHOGRAPH_API_KEY", "TACHOGRAPH_NATS_URL"])
def test_a_secret_that_is_missing_or_the_workers_own_is_refused(name: str) -> None:
    with pytest.raises(MissingSecret, match=name):
        resolve_secrets([name], OWN)


def test_a_run_cannot_claim_to_be_another_or_reach_other_devices() -> None:
    run = {"TACHOGRAPH_RUN_ID": "other", "CUDA_VISIBLE_DEVICES": "0,1,2,3", "LR": "0.1", "PYTHONUNBUFFERED": "0"}
    own = identity("http://x", "r", "tgr_t", 3, "p", RunDirectory(Path("/runs/r")))
    seen = program_environment({"PATH": "/bin"}, run, {}, {"CUDA_VISIBLE_DEVICES": ""}, own)
    assert seen["TACHOGRAPH_RUN_ID"] == "r"
    assert seen["TACHOGRAPH_EPOCH"] == "3"
    assert seen["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["LR"] == "0.1"
    assert (seen["TACHOGRAPH_OUTCOME"], seen["TACHOGRAPH_SPOOL"]) == ("/runs/r/outcome.json", "/runs/r/spool")


def test_settings_have_defaults() -> None:
    settings = from_environment({"TACHOGRAPH_NATS_URL": "nats://x:1", "TACHOGRAPH_HOME": "/data"})
    assert settings.state == Path("/data/worker")
    assert settings.name
    assert settings.cpu_slots is None


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "TACHOGRAPH_NATS_URL"),
        ({"TACHOGRAPH_NATS_URL": "nats://x", "TACHOGRAPH_WORKER_SLOTS": "-1"}, "TACHOGRAPH_WORKER_SLOTS"),
        ({"TACHOGRAPH_NATS_URL": "nats://x", "TACHOGRAPH_WORKER_SLOTS": "two"}, "TACHOGRAPH_WORKER_SLOTS"),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        from_environment(environment)
