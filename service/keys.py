"""Whose a credential is: API keys, and run tokens for the programs of managed runs.

An API key is 256 random bits, known to us only as its SHA-256: what cannot be guessed needs no slow hash, and a fast
one costs no request its time. A run token is signed, names its run, epoch and expiry. Keys that were found are
remembered; `listen` hears at once, in every process, of those that were changed or revoked.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.commit import LOST_CONNECTION
from events.ids import derived
from events.keys import Keyring
from events.organisation import KeyIssued
from events.types import Role
from projections import api_keys, sessions
from projections.api_keys import CHANNEL
from projections.runs import Reader
from service.access import PROGRAM

log = logging.getLogger("tachograph.service")

KEY_PREFIX: Final = "tg_"
SHOWN: Final = len(KEY_PREFIX) + 4
"""How many characters of a key may be shown, to tell it from others."""
TOKEN_PREFIX: Final = "tgr_"  # noqa: S105 (a prefix, not a secret)
SESSION_PREFIX: Final = "tgs_"
SESSION_SECONDS: Final = 12 * 3_600
TOKEN_SECONDS: Final = 30 * 86_400
CACHE_SECONDS: Final = 5.0
"""How long a key that was revoked opens something yet, at most: where the notification of it is lost."""
CACHED_KEYS: Final = 10_000
USE_SECONDS: Final = 30.0
"""How often a process says which keys were used."""
RETRY_SECONDS: Final = 1.0


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, for which organisation, in which role; a run token is confined to its run and epoch."""

    actor: str
    organisation_id: UUID
    role: str
    projects: frozenset[UUID] | None = None
    key: bytes | None = None
    """The SHA-256 of the key, or of the session that stands for it."""
    session: bool = False
    key_id: UUID | None = None
    run_id: UUID | None = None
    epoch: int | None = None

    def sees(self, project_id: UUID) -> bool:
        """Whether a project of the organisation is not hidden from the caller."""
        return self.projects is None or project_id in self.projects


def digest_of(secret: str) -> bytes:
    """Return what is known of a secret."""
    return hashlib.sha256(secret.encode()).digest()


class RunToken(msgspec.Struct, frozen=True, array_like=True):
    """What a run token says."""

    organisation_id: UUID
    run_id: UUID
    epoch: int
    expires: int


def key_of(secret: bytes) -> tuple[str, bytes]:
    """Return the API key made of 32 random bytes, and its SHA-256."""
    key = KEY_PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return key, digest_of(key)


def new_key(
    keyring: Keyring,
    event_id: UUID,
    *,
    label: str,
    role: Role,
    projects: Iterable[UUID] | None = None,
    expires_at: datetime | None = None,
) -> tuple[str, KeyIssued]:
    """Return a key's secret and the event that issues it; the same request, by its event's id, has the same again."""
    api_key, digest = key_of(keyring.derive(f"api key {event_id}"))
    issued = KeyIssued(
        key_id=derived(event_id, "key"),
        label=label,
        prefix=api_key[:SHOWN],
        sha256=digest,
        role=role,
        projects=None if projects is None else tuple(dict.fromkeys(projects)),
        expires_at=None if expires_at is None else expires_at.astimezone(UTC),
    )
    return api_key, issued


class Keys:
    """Tells who a credential belongs to."""

    def __init__(self, reader: Reader, token_key: bytes) -> None:
        self._reader = reader
        self._token_key = token_key
        self._known: dict[bytes, tuple[Principal, float]] = {}
        self._changes = 0
        self._used: dict[UUID, datetime] = {}

    async def principal(self, credential: str) -> Principal | None:
        """Return whose credential it is, or None."""
        if credential.startswith(TOKEN_PREFIX):
            return self._from_token(credential)
        if credential.startswith(SESSION_PREFIX):
            return None  # that comes in its cookie, where the browser says which page sends it
        return await self._of_key(digest_of(credential), session=False)

    async def of_session(self, secret: str) -> Principal | None:
        """Return who opened the session of a cookie, or None once it has ended."""
        return await self._of_key(digest_of(secret), session=True) if secret.startswith(SESSION_PREFIX) else None

    async def still(self, principal: Principal) -> bool:
        """Whether a key that came with a request is in force yet; a run token is, as long as its run takes it."""
        return principal.key is None or await self._of_key(principal.key, session=principal.session) is not None

    def forget(self) -> None:
        """Look again at every key: one was changed or revoked."""
        self._changes += 1
        self._known.clear()

    async def _of_key(self, sha256: bytes, *, session: bool) -> Principal | None:
        known = self._known.get(sha256)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        changes = self._changes
        key = await (sessions.key_of if session else api_keys.in_force)(self._reader, sha256)
        if key is None:
            self._known.pop(sha256, None)
            return None
        principal = Principal(
            actor=f"key:{key.key_id}",
            organisation_id=key.organisation_id,
            role=key.role.value,
            projects=key.projects,
            key=sha256,
            session=session,
            key_id=key.key_id,
        )
        now = datetime.now(UTC)
        self._used[key.key_id] = now
        if changes == self._changes:  # else what was read may be what was changed
            if len(self._known) >= CACHED_KEYS:
                self._known.clear()
            left = CACHE_SECONDS if key.expires_at is None else (key.expires_at - now).total_seconds()
            self._known[sha256] = (principal, time.monotonic() + min(left, CACHE_SECONDS))
        return principal

    async def note_uses(self, reader: Reader) -> None:
        """Write down when keys were used, of those that were since it was written last."""
        if used := self._used:
            self._used = {}
            try:
                await api_keys.note_uses(reader, used)
            except BaseException:
                self._used = used | self._used
                raise

    def run_token(self, organisation_id: UUID, run_id: UUID, epoch: int, since: float | None = None) -> str:
        """Return the token for the programs of one attempt of one run, which began at `since` (Unix seconds) or now."""
        token = RunToken(organisation_id, run_id, epoch, int(time.time() if since is None else since) + TOKEN_SECONDS)
        body = msgspec.msgpack.encode(token)
        return TOKEN_PREFIX + base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def _from_token(self, text: str) -> Principal | None:
        encoded = text.removeprefix(TOKEN_PREFIX)
        try:
            raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            if not hmac.compare_digest(raw[:32], self._mac(raw[32:])):
                return None
            token = msgspec.msgpack.decode(raw[32:], type=RunToken)
        except (ValueError, msgspec.DecodeError):
            return None
        if token.expires < time.time():
            return None
        return Principal(
            actor=f"run:{token.run_id}",
            organisation_id=token.organisation_id,
            role=PROGRAM,
            run_id=token.run_id,
            epoch=token.epoch,
        )

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._token_key, body, "sha256")


async def listen(keys: Keys, database_url: str, changed: Callable[[], None]) -> None:
    """Call `changed` as soon as some process changed or revoked a key; write down now and then which were used."""
    while True:
        try:
            connection = await asyncpg.connect(
                database_url, command_timeout=60, server_settings={"application_name": "tachograph-keys"}
            )
            try:
                await _hear(keys, connection, changed)
            finally:
                await connection.close(timeout=2)
        except (*LOST_CONNECTION, TimeoutError) as error:
            log.warning("changes of keys are not heard, and take up to %g s: %r; again", CACHE_SECONDS, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _hear(keys: Keys, connection: asyncpg.Connection, changed: Callable[[], None]) -> None:
    await connection.add_listener(CHANNEL, lambda *_: changed())
    changed()  # perhaps something was, meanwhile
    while True:
        await asyncio.sleep(USE_SECONDS)
        await connection.execute("select 1")  # which says whether we would hear anything
        await keys.note_uses(connection)
