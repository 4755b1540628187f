"""Idempotency: is a request that comes under a known id the one that came first? Pure.

Requests are compared by digests. The digest of a lifecycle request is made under the salt of its first event, lies with
the payload, and is erased with it. The payload of a batch of telemetry leaves Postgres when it is archived, so the
digest of its request is made under the run's key: it stays as long as the key, and tells nothing to anybody without it.
Source: docs/decisions/0005-commitments.md.
"""

from events.codec import request_digest
from events.errors import Erased, IdReused
from events.keys import DIGEST_BYTES, DataKey


def same_request(salt: bytes | None, stored: bytes | None, request: bytes) -> None:
    """Compare a lifecycle request. Raises `IdReused`, or `Erased` when it can no longer be told."""
    if salt is None or stored is None:
        raise Erased("this request was recorded, and its run has been deleted since")
    if request_digest(salt, request) != stored:
        raise IdReused("this id was used before, with a different request")


def same_batch(salt: bytes | None, stored: bytes | None, request: bytes, key: DataKey | None) -> None:
    """Compare a telemetry request. Raises `IdReused`, or `Erased` when the run's key is gone.

    Before digests were made under the key they were salted like those of lifecycle requests, and went with the batch:
    of such a one its seq alone says that it was recorded.
    """
    if key is None:
        raise Erased("the run was deleted")
    if stored is None:
        return
    again = key.digest(request) if len(stored) == DIGEST_BYTES else request_digest(salt or b"", request)
    if again != stored:
        raise IdReused("this seq was used before, with a different batch")
