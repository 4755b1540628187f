"""What all runs of one machine share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tachograph
from workers.gpu.reporting import Calls


@dataclass(frozen=True)
class Machine:
    """`devices` turns slot ids into variables, `volumes` names directories."""

    calls: Calls
    client: tachograph.Client
    base_environment: Mapping[str, str]
    own_environment: Mapping[str, str]
    devices: Callable[[Iterable[str]], Mapping[str, str]]
    volumes: Mapping[str, Path]
    preparation_seconds: float
    stopping_seconds: float
    metrics_seconds: float
