"""What a deletion takes for good, and where it is to be had before."""

from typing import Any
from uuid import UUID

import msgspec

from events.errors import Rejected
from events.refusals import actions, undeletable
from events.sql import load
from projections.runs import StoredRun
from service.context import Service

WARNING = "What is deleted cannot be recovered: artifacts, metrics, logs and settings. Save what is still wanted first."


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Something to save: where it is to be had, and how much it is: files, points, or one document."""

    what: str
    how: str
    href: str
    objects: int
    bytes: int | None = None


class DeletionResource(msgspec.Struct, frozen=True, kw_only=True):
    """A deletion that nobody has asked for yet; `detail` is what it would do, or why it is refused."""

    run: UUID
    state: str
    possible: bool
    detail: str
    save_first: tuple[Offer, ...]


class StillActive(Rejected):
    """An active run is not deleted; carries what may be saved until it can be."""

    def __init__(self, detail: str, save_first: tuple[Offer, ...], **refusal: Any) -> None:
        super().__init__(detail, **refusal)
        self.save_first = save_first


async def deletion(service: Service, stored: StoredRun) -> DeletionResource:
    """Return what deleting a run would mean now."""
    refused = undeletable(stored.run)
    return DeletionResource(
        run=stored.run_id,
        state=stored.run.status,
        possible=refused is None,
        detail=WARNING if refused is None else f"cannot delete a run that is {stored.run.status}: {refused}",
        save_first=await _offers(service, stored),
    )


async def refuse_active(service: Service, stored: StoredRun) -> None:
    """Raise `StillActive` where the run cannot be deleted yet."""
    if undeletable(stored.run) is not None:
        found = await deletion(service, stored)
        run = stored.run
        raise StillActive(found.detail, found.save_first, state=run.status, asked="delete", allowed=actions(run))


async def _offers(service: Service, stored: StoredRun) -> tuple[Offer, ...]:
    left = await service.pool.fetchrow(load("projections.sql", "left_by_run"), stored.ledger_id, stored.run_id)
    run = f"/api/v1/runs/{stored.run_id}"
    return (
        Offer(
            what="artifacts",
            how="download the model and every other file: this lists them, each is at …/artifacts/<name>",
            href=f"{run}/artifacts",
            objects=left["artifacts"],
            bytes=left["artifact_bytes"],
        ),
        Offer(
            what="metrics",
            how="export every point of every metric; format takes csv and arrow as well",
            href=f"{run}/export?table=metrics&format=parquet",
            objects=left["points"],
        ),
        Offer(
            what="configuration",
            how="save the settings, the summary and the state: the run as it is",
            href=run,
            objects=1,
        ),
    )
