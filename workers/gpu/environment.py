"""The variables that a program sees, pure: an allow-list, the run's own, its secrets, and who it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from workers.gpu.records import RunDirectory

PASSED_ON = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME",
        "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    }
)  # fmt: skip
"""What a program gets of the worker's own environment; everything else may be a secret."""

RESERVED_PREFIX = "TACHOGRAPH_"


class MissingSecret(Exception):
    """A secret that the run asks for cannot be given; the message says which and why, never a value."""


def base_environment(own: Mapping[str, str], prefix: Path | None) -> dict[str, str]:
    """Return what is passed on; `prefix` is the worker's virtual environment, whose `python` comes first."""
    environment = {name: value for name, value in own.items() if name in PASSED_ON or name.startswith("LC_")}
    if prefix is not None:
        environment["VIRTUAL_ENV"] = str(prefix)
        environment["PATH"] = f"{prefix / 'bin'}:{own.get('PATH', '/usr/local/bin:/usr/bin:/bin')}"
    return environment


def resolve_secrets(names: Iterable[str], own: Mapping[str, str]) -> dict[str, str]:
    """Look the secrets up in the worker's own environment.

    Raises `MissingSecret`, also for the worker's own credentials, which are nobody's to ask for.
    """
    found = {}
    for name in names:
        if name.startswith(RESERVED_PREFIX):
            raise MissingSecret(f"the secret {name} is refused: names with {RESERVED_PREFIX} are the worker's own")
        if name not in own:
            raise MissingSecret(f"the secret {name} is not in the worker's environment")
        found[name] = own[name]
    return found


def program_environment(
    base: Mapping[str, str],
    run: Mapping[str, str],
    secrets: Mapping[str, str],
    devices: Mapping[str, str],
    identity: Mapping[str, str],
) -> dict[str, str]:
    """Merge; a later one wins, so that no run can claim to be another or reach devices that it was not given."""
    return {**base, "PYTHONUNBUFFERED": "1", **run, **secrets, **devices, **identity}


def identity(url: str, run_id: str, token: str, epoch: int, project_id: str, directory: RunDirectory) -> dict[str, str]:
    """Return the variables by which the SDK in the program finds its run, and where it may leave what.

    That is how the run ends, and what it logged, should it be killed.
    """
    return {
        "TACHOGRAPH_URL": url,
        "TACHOGRAPH_RUN_ID": run_id,
        "TACHOGRAPH_RUN_TOKEN": token,
        "TACHOGRAPH_EPOCH": str(epoch),
        "TACHOGRAPH_PROJECT": project_id,
        "TACHOGRAPH_OUTCOME": str(directory.outcome),
        "TACHOGRAPH_SPOOL": str(directory.spool),
    }
