"""Peers that log beside their program, in environments of their own: their pins are not ours.

`make bench` installs each from `bench/<name>.lock` into `.venv-<name>`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.harness import Void

ROOT: Final = Path(__file__).resolve().parent.parent


def python(name: str) -> Path:
    """Return the interpreter that has a peer."""
    return ROOT / f".venv-{name}" / "bin" / "python"


def version(name: str) -> str:
    """Return which release of a peer is installed. Raises `Void` where there is none."""
    found = next(ROOT.glob(f".venv-{name}/lib/python*/site-packages/{name}-*.dist-info"), None)
    if found is None or not python(name).exists():
        raise Void(f"{python(name)} has no {name}; `make bench` installs it")
    return found.name.removeprefix(f"{name}-").removesuffix(".dist-info")


def environment(home: str) -> Mapping[str, str]:
    """Return the variables of a program that uses a peer: everything it keeps is in `home`, and it calls nobody."""
    private = {"HOME": home, "TRACKIO_DIR": f"{home}/trackio", "WANDB_DIR": home, "WANDB_MODE": "offline"}
    return {**os.environ, **private, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "WANDB_SILENT": "true"}
