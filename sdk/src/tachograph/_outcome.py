"""How a managed run ends, left for its worker: a file beside the run's directory, whole or not there."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tachograph._types import Json


def leave(path: Path, end: Json) -> bool:
    """Say how the run ends; False where nothing can be left. Of several processes the first that failed is heard."""
    if (said := _said(path)) is not None and said.get("status") != "completed":
        return True
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(end), encoding="utf-8")
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        return False
    return True


def _said(path: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None
