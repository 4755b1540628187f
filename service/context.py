"""What every route needs: the ledger and its surroundings, and who asks for what."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from litestar import Request as HttpRequest
from litestar import Response
from nats.aio.client import Client

from events.errors import Fenced, NotFound
from events.ids import derived, uuid7
from events.keys import Keyring
from events.ledger import Ledger
from events.refusals import actions
from events.settings import Settings
from events.types import Resources, Status
from projections import credits, queue, runs, tenancy
from projections.analytics import Analytics
from projections.archive import stores
from projections.charts.series import Charts
from projections.credits import RunCost
from projections.execute import Outcome, Request
from projections.logs import Logs
from projections.query import limits
from projections.query.queries import Queries
from projections.runs import StoredRun
from projections.search.listing import Found, Listing
from projections.storage import artifact_limits
from projections.storage.objects import SILENT_SECONDS, ObjectStore
from projections.storage.uploads import Uploads
from projections.tenancy import Project
from service.access import Forbidden
from service.actors import Actors
from service.glance import Glance, Lately, backlog, standing
from service.http.requests import header
from service.imports.jobs import Apart, Jobs
from service.ingest import admission
from service.keys import Keys, Principal
from service.liveness import ApiBeats
from service.problems import Gone, Invalid
from service.resources import (
    Credits,
    RunResource,
    Tombstone,
    WaitingResource,
    run_resource,
    tombstone,
    waiting_resource,
)
from service.tails import Tails

Http = HttpRequest[Principal, None, Any]

MAX_KEY_BYTES: Final = 255
MAX_DEPTH: Final = 100
"""How deep documents may be nested, so that every reader of them, ours and others, can take them."""
CACHED_ADDRESSES: Final = 50_000


class Service:
    """The parts of a running API process."""

    def __init__(self, settings: Settings, pool: asyncpg.Pool, sets: asyncpg.Pool, keyring: Keyring) -> None:
        self.settings = settings
        self.pool = pool
        self.keyring = keyring
        self.tails = Tails()
        self.nats: Client | None = None
        self.ledger = self.tails.ledger = Ledger(pool, keyring, nudge=self.tails.grown)
        self.keys = Keys(pool, keyring.derive("run-token"))
        self.actors = Actors(self.ledger)
        self.beats = ApiBeats()
        self.admission = admission.Admission(admission.from_environment())
        self.objects = ObjectStore.at(settings.object_store, silent_seconds=SILENT_SECONDS)
        self.uploads = Uploads(self.ledger, self.objects, artifact_limits.from_environment())
        self.imports = Jobs(pool, Apart(pool).carry)
        self.archive = stores.opened(settings, silent_seconds=SILENT_SECONDS)
        self.analytics = Analytics(self.archive)
        self.charts = Charts(self.ledger, self.analytics)
        self.logs = Logs(self.ledger, self.analytics)
        self.listing = Listing(pool, sets)
        self.queries = Queries(self.ledger, self.archive, limits.from_environment())
        self.standing = Glance(lambda: standing(pool))
        self.backlog = Glance(lambda: backlog(pool))
        self.database_full = Lately()
        self.stopping = asyncio.Event()
        self.downloads: dict[object, str] = {}
        self._organisations: dict[UUID, UUID] = {}
        self._addresses: dict[str, tuple[UUID, UUID]] = {}
        self._projects: dict[str, tuple[UUID, UUID]] = {}

    def keys_changed(self) -> None:
        """A key was changed or revoked: look at all again, and see whether who follows still may."""
        self.keys.forget()
        self.actors.forget()
        self.tails.wake_all()

    async def project(self, http: Http, name_or_id: str) -> Project:
        """Return the caller's project. Raises `NotFound`."""
        project = await tenancy.project(self.pool, http.user.organisation_id, name_or_id)
        if project is None or not http.user.sees(project.project_id):
            raise NotFound(f"there is no project {name_or_id!r}")
        return project

    async def project_id(self, http: Http, name_or_id: str) -> UUID:
        """Return the id of the caller's project, which needs no look at it once it was found by its id.

        Raises `NotFound`.
        """
        known = self._projects.get(name_or_id)
        if known is not None and known[0] == http.user.organisation_id and http.user.sees(known[1]):
            return known[1]
        project = await self.project(http, name_or_id)
        if name_or_id == str(project.project_id):  # names move on, ids do not
            if len(self._projects) >= CACHED_ADDRESSES:
                self._projects.clear()
            self._projects[name_or_id] = (project.organisation_id, project.project_id)
        return project.project_id

    async def run(self, http: Http, run: str, *, deleted: bool = False, to_decide: bool = False) -> StoredRun:
        """Return the caller's run, by id or as `ext:<project>:<external_id>`.

        `to_decide`, it may be what this process saw last: whoever decides on that appends with its version. Raises
        `NotFound`, `Forbidden` for a token of another run, and `Gone` for a deleted run unless it is asked for.
        """
        stored = await self._find(http, run, to_decide=to_decide)
        if stored is None or not await self.sees(http, stored.ledger_id):
            raise NotFound(f"there is no run {run!r}")
        if http.user.run_id not in (None, stored.run_id):
            raise Forbidden("a run token opens only its own run", role=http.user.role)
        if stored.run.status is Status.DELETED and not deleted:
            raise Gone(
                as_json(await self.tombstone(stored)),
                asked=f"{http.method} {_template(http)}",
                allowed=actions(stored.run),
            )
        if http.user.epoch not in (None, stored.run.epoch) and http.method not in {"GET", "HEAD"}:
            raise Fenced(
                f"this token is of epoch {http.user.epoch}, not of the run's latest attempt ({stored.run.epoch})",
                state=stored.run.status,
                asked=f"{http.method} {_template(http)}",
                allowed=actions(stored.run),
            )
        return stored

    async def address(self, http: Http, run: str) -> tuple[UUID, UUID]:
        """Return a run's ledger and id for its program, without reading its state: appends check that themselves."""
        known = self._addresses.get(run)
        if known is None:
            stored = await self.run(http, run)
            known = (stored.ledger_id, stored.run_id)
            if not run.startswith("ext:"):  # names move on, ids do not
                if len(self._addresses) >= CACHED_ADDRESSES:
                    self._addresses.clear()
                self._addresses[run] = known
            return known
        if not await self.sees(http, known[0]) or http.user.run_id not in (None, known[1]):
            raise NotFound(f"there is no run {run!r}")
        return known

    async def _find(self, http: Http, run: str, *, to_decide: bool) -> StoredRun | None:
        if run.startswith("ext:"):
            _, _, rest = run.partition(":")
            name, _, external_id = rest.partition(":")
            project = await tenancy.project(self.pool, http.user.organisation_id, name)
            return await runs.by_external_id(self.pool, project.project_id, external_id) if project else None
        try:
            run_id = UUID(run)
        except ValueError:
            raise NotFound(f"there is no run {run!r}: an id, or ext:<project>:<external id>") from None
        seen: StoredRun | None = self.ledger.recent.get(run_id) if to_decide else None
        return seen or await runs.get(self.pool, run_id)

    async def sees(self, http: Http, ledger_id: UUID) -> bool:
        """Whether a project is of the caller's organisation, and not hidden from the caller."""
        user = http.user
        return await self.organisation(ledger_id) == user.organisation_id and user.sees(ledger_id)

    async def organisation(self, ledger_id: UUID) -> UUID | None:
        """Return whose ledger it is."""
        known = self._organisations.get(ledger_id)
        if known is None:
            known = await self.pool.fetchval(
                "select organisation_id from ledger.ledger where ledger_id = $1", ledger_id
            )
            if known is not None:
                self._organisations[ledger_id] = known
        return known

    async def asked(self, http: Http, scope: UUID | None = None) -> Request:
        """Return who asks for what; an `Idempotency-Key` makes a repetition the same request.

        `scope` is the project, workflow or run that the route is about: names move on, ids do not.
        """
        body = await http.body()
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_deeper(msgspec.json.decode(body), MAX_DEPTH):
            raise Invalid(f"a body is nested at most {MAX_DEPTH} deep", limit=MAX_DEPTH)
        key = idempotency_key(http)
        event_id = uuid7() if key is None else derived(http.user.actor, http.method, _template(http), scope, key)
        return Request(
            actor=http.user.actor,
            event_id=event_id,
            body=hashlib.sha256(f"{http.method} {_template(http)} {scope}\n".encode() + body).digest(),
            named=key is not None,
            occurred_at=datetime.now(UTC),
        )

    async def shown(self, stored: list[StoredRun]) -> list[RunResource]:
        """Return runs as the API shows them now."""
        now = datetime.now(UTC)
        return await self._shown(stored, await credits.of_runs(self.pool, [one.run_id for one in stored], now), now)

    async def listed(self, found: list[Found]) -> list[RunResource]:
        """Return listed runs as the API shows them now."""
        now = datetime.now(UTC)
        costs = {one.key.run_id: credits.cost(one.credits, now) for one in found if one.credits is not None}
        return await self._shown([one.stored for one in found], costs, now)

    async def _shown(self, stored: list[StoredRun], costs: Mapping[UUID, RunCost], now: datetime) -> list[RunResource]:
        waiting = await self._waiting(stored)
        return [
            run_resource(one, _credits(costs.get(one.run_id)), now, waiting=waiting.get(one.run_id)) for one in stored
        ]

    async def _waiting(self, stored: list[StoredRun]) -> dict[UUID, WaitingResource]:
        queued = {one.run_id: one for one in stored if one.run.status is Status.QUEUED}
        if not queued:
            return {}
        organisation_id = await self.organisation(stored[0].ledger_id)  # what is shown together is of one
        assert organisation_id is not None
        found = await queue.of_organisation(self.pool, organisation_id, runs=list(queued))
        return {one.run_id: waiting_resource(one, queued[one.run_id].run.resources or Resources()) for one in found}

    async def answer(self, outcome: Outcome, status: int = 200) -> Response[RunResource]:
        """Return a command's outcome as a response with its ledger position."""
        stored = StoredRun(
            ledger_id=outcome.ledger_id, run_id=outcome.run_id, position=outcome.position, run=outcome.run
        )
        resource = run_resource(stored, *await self._then(outcome))
        return Response(resource, status_code=status, headers={"Tachograph-Position": str(outcome.position)})

    async def _then(self, outcome: Outcome) -> tuple[Credits, datetime]:
        """Return what the run had cost when the outcome came about, and when that was.

        Both are taken from the ledger, so that a repetition is answered as the first time, whenever it comes. A run
        that was never started costs nothing, and shows no time that goes on.
        """
        run = outcome.run
        if run.epoch == 0 and run.started_at is None and run.progress is None and run.status_since is not None:
            return Credits(), run.status_since
        ledger_id = outcome.ledger_id
        moved = await self.pool.fetch(
            "select position from run_transition where ledger_id = $1 and run_id = $2 and position <= $3"
            " order by version",
            ledger_id,
            outcome.run_id,
            outcome.position,
        )
        counted = credits.NO_CREDITS
        for row in moved:
            (event,) = await self.ledger.read(ledger_id, after=row["position"] - 1, up_to=row["position"])
            counted = credits.evolve(counted, event.event(), event.recorded_at)
        moment = await self.pool.fetchval(
            "select recorded_at from ledger.event where ledger_id = $1 and position = $2", ledger_id, outcome.position
        )
        counted = credits.as_of(counted, moment)
        return Credits(counted.consumed_micro, counted.estimate_micro, counted.saved_micro), moment

    async def tombstone(self, stored: StoredRun) -> Tombstone:
        """Return what is left of a deleted run."""
        history = await runs.transitions(self.pool, stored.ledger_id, stored.run_id)
        deleted_by = next((row["actor"] for row in history if row["to_status"] == Status.DELETED), None)
        costs = await credits.of_runs(self.pool, [stored.run_id], datetime.now(UTC))
        return tombstone(stored, deleted_by, _credits(costs.get(stored.run_id)))


def idempotency_key(http: Http) -> str | None:
    """Return what the caller named the request, or None. Raises `Invalid`."""
    key = header(http.scope, b"idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY_BYTES:
        raise Invalid("Idempotency-Key is 1 to 255 characters", path="Idempotency-Key", limit=MAX_KEY_BYTES)
    return key


def _template(http: Http) -> str:
    """Return the route's path as it is declared."""
    return min(http.route_handler.paths)


def as_json(struct: Any) -> dict[str, Any]:
    """Return a Struct as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(struct)
    return plain


def _is_deeper(value: Any, depth: int) -> bool:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return below is not None and (depth == 0 or any(_is_deeper(one, depth - 1) for one in below))


def _credits(cost: RunCost | None) -> Credits:
    if cost is None:
        return Credits()
    return Credits(cost.consumed_micro, cost.estimate_micro, cost.saved_micro)
