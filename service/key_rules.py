"""What an API key may be, wherever it is asked for. Raises `Invalid`, which names the field."""

from datetime import datetime

from events.types import Role
from service.bodies import NewKey
from service.problems import Invalid


def check_new(wanted: NewKey, now: datetime | None) -> None:
    """Refuse a key that could not be made; without `now`, its end may have come."""
    if wanted.projects is not None and wanted.role in {Role.ADMIN, Role.WORKER}:
        raise Invalid(f"a key of the role {wanted.role} is for all of the organisation", path="$.projects")
    if now is not None:
        to_come(wanted.expires_at, now)


def to_come(expires_at: datetime | None, now: datetime) -> datetime | None:
    """Return when a key is to expire, if that is yet to come."""
    if expires_at is not None and expires_at <= now:
        raise Invalid("a key expires in the future", path="$.expires_at")
    return expires_at
