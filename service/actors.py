"""What keys were called when something happened: the ledger names their ids, and no text of users in clear."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from events.ledger import Ledger
from projections import api_keys

KEY: Final = "key:"
CACHED_NAMES: Final = 10_000


class Actors:
    """Tells a key's name as of a moment; what keys were called is remembered until one is changed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._labels: dict[tuple[UUID, str], Sequence[tuple[datetime, str]]] = {}
        self._changes = 0

    async def name(self, organisation_id: UUID, actor: str, at: datetime) -> str | None:
        """Return what the key was called; None of an actor that is no key of the organisation."""
        if not actor.startswith(KEY):
            return None
        labels = self._labels.get((organisation_id, actor))
        if labels is None:
            changes = self._changes
            labels = await api_keys.labels(self._ledger, organisation_id, UUID(actor.removeprefix(KEY)))
            if changes == self._changes:
                if len(self._labels) >= CACHED_NAMES:
                    self._labels.clear()
                self._labels[organisation_id, actor] = labels
        return next((label for since, label in reversed(labels) if since <= at), labels[0][1] if labels else None)

    def forget(self) -> None:
        """Look again at every name: one was changed."""
        self._changes += 1
        self._labels.clear()
