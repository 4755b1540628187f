"""Beats of tracked runs: gathered as they come over HTTP, sent on four times a second as one message."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.beats import Beat, beat_subject
from events.ids import uuid7

log = logging.getLogger("tachograph.service")

SEND_SECONDS: Final = 0.25
MAX_RUNS: Final = 10_000
"""In one message: about half of what a NATS server takes."""


class ApiBeats:
    """This process's tracked runs that beat since the last message."""

    def __init__(self) -> None:
        self._sender = f"api-{uuid7()}"
        self._runs: dict[UUID, int] = {}

    def beat(self, run_id: UUID, epoch: int) -> None:
        """Take note that an attempt is alive."""
        self._runs[run_id] = epoch

    async def run(self, nats: Client) -> None:
        """Send what came, again and again, until cancelled; also when nothing came, as the canary of this path.

        Without a connection it waits here, where a run has one beat: the client would keep all of them.
        """
        while True:
            if not nats.is_connected:
                await asyncio.sleep(SEND_SECONDS)
                continue
            runs, self._runs = self._runs, {}
            try:
                for some in batched(runs):
                    beat = Beat(sender=self._sender, kind="api", runs=some)
                    await nats.publish(beat_subject(self._sender), msgspec.json.encode(beat))
            except (NatsError, OSError) as error:
                log.warning("heartbeats: %s; sent again with the next", error)
                self._runs = {**runs, **self._runs}
            await asyncio.sleep(SEND_SECONDS)


def batched(runs: dict[UUID, int]) -> Iterator[dict[UUID, int]]:
    """Yield the runs in parts that fit into a message; one empty part where there are none."""
    pairs = list(runs.items())
    for start in range(0, len(pairs) or 1, MAX_RUNS):
        yield dict(pairs[start : start + MAX_RUNS])
