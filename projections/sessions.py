"""Sessions of browsers: a secret in a cookie that stands for a key, until it ends or its key does."""

from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from events.sql import load
from projections.api_keys import CHANNEL, ApiKey, as_key
from projections.runs import Reader


async def begin(reader: Reader, sha256: bytes, key_id: UUID, expires_at: datetime) -> None:
    """Begin a session, and forget those that have ended."""
    await reader.execute("delete from operation.session where expires_at < clock_timestamp()")
    await reader.execute("insert into operation.session values ($1, $2, $3)", sha256, key_id, expires_at)


async def key_of(reader: Reader, sha256: bytes) -> ApiKey | None:
    """Return the key that a session stands for, as long as the session lasts; None where it has ended."""
    found = await reader.fetchrow(load("projections.sql", "session_in_force"), sha256)
    return None if found is None else replace(as_key(found), expires_at=found["until"])


async def end(reader: Reader, sha256: bytes) -> None:
    """End a session, in every process."""
    await reader.execute(load("projections.sql", "close_session"), sha256, CHANNEL)
