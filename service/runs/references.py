"""Artifacts of other runs that a run or a workflow takes in: `artifact:<run>/<name>`, as code, data or a volume."""

import re
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from events.types import Volume
from projections import runs
from service.context import Http, Service
from service.problems import Invalid
from service.recipes import VolumeBody

_OF_A_RUN: Final = re.compile(r"artifact:([0-9a-fA-F-]{36})/(.+)")


def artifacts_of(
    code: str | None, dataset: str | None, import_volumes: Sequence[Volume | VolumeBody]
) -> Iterator[tuple[str, str, str, str]]:
    """Yield each reference to an artifact of a run: its field, the reference, the run as it is written, the name."""
    named = {"code": code, "dataset": dataset}
    named |= {f"import_volumes[{index}].place": volume.place for index, volume in enumerate(import_volumes)}
    for field, reference in named.items():
        found = _OF_A_RUN.match(reference or "")
        if found is not None and reference is not None:
            yield field, reference, found[1], found[2]


async def check_seen(
    http: Http,
    service: Service,
    *,
    code: str | None = None,
    dataset: str | None = None,
    import_volumes: Sequence[Volume | VolumeBody] = (),
) -> None:
    """Refuse to take in files of projects that are hidden from the caller: a worker would fetch them.

    Nothing is looked up for keys that see the whole organisation. Raises `Invalid`.
    """
    if http.user.projects is None:
        return
    for field, reference, run, _ in artifacts_of(code, dataset, import_volumes):
        try:
            stored = await runs.get(service.pool, UUID(run))
        except ValueError:
            stored = None
        if stored is None or not await service.sees(http, stored.ledger_id):
            raise Invalid(f"there is no run {run}, of which {reference!r} is", path=f"$.{field}")
