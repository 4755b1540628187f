"""Every JetStream stream and every consumer of ours, declared here and nowhere else. Pure.

Streams have limits retention, so that acknowledged ids still deduplicate.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from events.beats import order_subject

DAY: Final = 86_400.0
EVENTS: Final = "EVENTS"
TELEMETRY: Final = "TELEMETRY"
COMMANDS: Final = "COMMANDS"
HEARTBEATS: Final = "HEARTBEATS"

MIN_PAYLOAD_BYTES: Final = 1 << 20
"""What a server must take in one message: an event of 512 KiB, its headers, and room for JSON."""


@dataclass
class BatchedConfig(StreamConfig):
    """A stream that stores batches of messages whole or not at all, which the client library has no word for yet."""

    allow_atomic: bool = True


STREAMS: Final[tuple[StreamConfig, ...]] = (
    BatchedConfig(
        name=EVENTS,
        subjects=["tachograph.events.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=30 * DAY,
        max_bytes=8 << 30,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    BatchedConfig(
        name=TELEMETRY,
        subjects=["tachograph.telemetry.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=DAY,
        max_bytes=8 << 30,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    StreamConfig(
        name=COMMANDS,
        subjects=["tachograph.commands.>"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        max_age=DAY,
        max_bytes=256 << 20,
        discard=DiscardPolicy.OLD,
        duplicate_window=120,
    ),
    StreamConfig(
        name=HEARTBEATS,
        subjects=["tachograph.heartbeats.*"],
        storage=StorageType.MEMORY,
        retention=RetentionPolicy.LIMITS,
        max_msgs_per_subject=1,
        max_bytes=64 << 20,
        discard=DiscardPolicy.OLD,
    ),
)


def commands_consumer(worker_id: str) -> ConsumerConfig:
    """Return the durable consumer by which one GPU worker takes its orders."""
    return ConsumerConfig(
        durable_name=f"worker-{worker_id}",
        filter_subject=order_subject(UUID(worker_id)),
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=30.0,
        max_deliver=100,
        max_ack_pending=256,
    )
