"""Signed heads in the object store: `heads/<ledger>/<position>-<key>.json`, written once and never again."""

import asyncio
from typing import Final
from uuid import UUID

import msgspec

from events.heads import SignedHead, read_heads
from projections.storage.objects import ObjectStore

MOST_HEADS: Final = 1_000
"""How many heads of a ledger are read: evenly out of all, the last among them."""

AT_ONCE: Final = 16


async def put(objects: ObjectStore, head: SignedHead) -> None:
    """Store a head; one of the same position and key stays as it was first stored."""
    await objects.create(f"{_prefix(head.ledger)}{head.position:020d}-{head.key_id}.json", msgspec.json.encode(head))


async def read(objects: ObjectStore, ledger_id: UUID) -> list[SignedHead]:
    """Return stored heads of a ledger, oldest first, at most `MOST_HEADS`.

    Raises `HeadRefused` where one cannot be read, and what the store raises.
    """
    paths = sorted([one.path async for page in objects.pages(_prefix(ledger_id)) for one in page])
    every = -(-len(paths) // MOST_HEADS) or 1
    chosen = paths[::-1][::every][::-1]
    heads: list[SignedHead] = []
    for start in range(0, len(chosen), AT_ONCE):
        for text in await asyncio.gather(*map(objects.get, chosen[start : start + AT_ONCE])):
            heads += read_heads(text)
    return heads


def _prefix(ledger_id: UUID) -> str:
    return f"heads/{ledger_id}/"
