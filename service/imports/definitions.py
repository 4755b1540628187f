"""Brings a project's workflows, sweeps, alert rules and webhooks here with ids, versions, links; again changes nothing.

They are recorded as events of ours, by `system:import`, in the order in which they had happened: a later archive of the
same project adds what happened since. A sweep that makes trials there makes none here. A rule is in force from its
import on, a webhook once its address was given again.

Source: docs/decisions/0029-archives.md.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from types import UnionType
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import asdict, replace

from events import codec
from events import sweep as searches
from events import workflow as recipes
from events.alerts import AlertRuleSet, WebhookSet
from events.errors import CorruptHistory, TooLarge, VersionConflict
from events.ids import derived
from events.ledger import Ledger
from events.organisation import WorkflowEvent, WorkflowRenamed
from events.records import IMPORTER
from events.run_events import RunCreated
from events.sweep import Sweep, SweepCreated, SweepEvent, SweepStatus, SweepStopped
from events.workflow import Workflow
from projections import subscriptions, sweeps, workflows
from projections.execute import Request, record
from projections.pack.format import Definition
from projections.subscriptions import Subscription
from projections.tenancy import Project, Rows
from service.alert_conditions import check_address, check_condition, check_types
from service.bodies import Name, WorkflowBody
from service.imports.incoming import Unreadable, said
from service.imports.report import DefinitionReport
from service.problems import Invalid
from service.recipes import checked
from service.runs.names import no_id

Table = Literal["run", "workflow", "sweep"]
_OWNER: Final[dict[Table, str]] = {
    "run": "select ledger_id from run where run_id = $1",
    "workflow": "select ledger_id from workflow where workflow_id = $1",
    "sweep": "select ledger_id from sweep where sweep_id = $1",
}
S = TypeVar("S", Workflow, Sweep)
WAITS: Final = (
    "it sends nothing until its address is given again, and is then signed with a secret of this installation"
)
_REFUSED: Final = (Unreadable, Invalid, CorruptHistory, TooLarge, VersionConflict, msgspec.MsgspecError)


async def placed(pool: asyncpg.Pool, project_id: UUID, table: Table, identity: UUID) -> UUID:
    """Return the id that something has in this project: its own, unless another project has it."""
    owner = await pool.fetchval(_OWNER[table], identity)
    return identity if owner in {None, project_id} else derived(project_id, "import", identity)


async def linked(pool: asyncpg.Pool, project_id: UUID, created: RunCreated) -> RunCreated:
    """Return a run whose workflow and sweep are those of this project; of a sweep that is not here it is no trial."""
    if created.workflow is not None:
        workflow = await placed(pool, project_id, "workflow", created.workflow.id)
        created = replace(created, workflow=replace(created.workflow, id=workflow))
    if created.trial is not None:
        sweep = await placed(pool, project_id, "sweep", created.trial.sweep)
        here = await sweeps.get(pool, sweep) is not None
        created = replace(created, trial=replace(created.trial, sweep=sweep) if here else None)
    return created


def read(definition: Definition) -> tuple[str, Sequence[Any]]:
    """Return the name and the events of a definition that the API would take. Raises what `_REFUSED` names."""
    events = [codec.from_document(one.type, one.schema_version, one.data) for one in definition.events]
    match definition.kind:
        case "workflow":
            workflow = _workflow_of(events)
            recipe = asdict(workflow)
            del recipe["version"], recipe["archived"]
            msgspec.convert(msgspec.to_builtins(recipe), WorkflowBody)
            no_id(workflow.name)
            checked(recipe)
            return workflow.name, events
        case "sweep":
            return _sweep_of(events).name, events
        case "alert_rule":
            rule = events[-1] if len(events) == 1 else None
            if not isinstance(rule, AlertRuleSet):
                raise CorruptHistory("an alert rule is set once")
            msgspec.convert(rule.name, Name)
            check_condition(rule.condition)
            return rule.name, events
        case "webhook":
            hook = events[-1] if len(events) == 1 else None
            if not isinstance(hook, WebhookSet) or hook.in_force:
                raise CorruptHistory("a webhook is set once, and waits for its address")
            check_address(hook.url, "url")
            check_types(hook.types, "types")
            return hook.url, events


class Definer:
    """Brings definitions into one project."""

    def __init__(self, ledger: Ledger, project: Project) -> None:
        self._ledger = ledger
        self._pool = ledger.pool
        self._project = project

    async def take(self, definition: Definition) -> DefinitionReport:
        """Bring one here and say what became of it. Raises what the ledger raises when it is away; then ask again."""
        report = DefinitionReport(kind=definition.kind, original=definition.id)
        try:
            report.name, events = read(definition)
            match definition.kind:
                case "workflow":
                    await self._workflow(definition.id, events, report)
                case "sweep":
                    await self._sweep(definition.id, events, report)
                case "alert_rule":
                    await self._rule(definition.id, events[0], report)
                case "webhook":
                    await self._webhook(definition.id, events[0], report)
        except _REFUSED as error:
            report.outcome, report.why = "refused", said(error)
        except asyncpg.UniqueViolationError:
            report.outcome, report.why = "refused", "its name was taken meanwhile; import again"
        return report

    async def _workflow(self, original: UUID, events: Sequence[WorkflowEvent], report: DefinitionReport) -> None:
        report.id = here = await placed(self._pool, self._project.project_id, "workflow", original)
        due, known = await self._due(here, events, report)
        if not due:
            return
        state = _workflow_of([*known, *due])
        taken = await workflows.by_name(self._pool, self._project.project_id, state.name)
        if taken is not None and taken.workflow_id != here:
            due = [*due, WorkflowRenamed(name=f"{state.name[:230]}-{here.hex[-8:]}")]
            state = recipes.evolve(state, due[-1])
            report.name, report.why = state.name, "its name is taken, so it has another"
        row = workflows.row(here, state, event=len(due) - 1)
        await self._append(here, len(known), due, row)

    async def _sweep(self, original: UUID, events: Sequence[SweepEvent], report: DefinitionReport) -> None:
        project_id = self._project.project_id
        report.id = here = await placed(self._pool, project_id, "sweep", original)
        created = events[0]
        assert isinstance(created, SweepCreated)
        workflow = await placed(self._pool, project_id, "workflow", created.workflow)
        events = [replace(created, workflow=workflow), *events[1:]]
        if _sweep_of(events).status in {SweepStatus.RUNNING, SweepStatus.PAUSED}:
            events.append(SweepStopped())
            report.why = "it had not ended there; it makes no trials here"
        due, known = await self._due(here, events, report)
        if due:
            await self._append(here, len(known), due, sweeps.row(here, _sweep_of([*known, *due])))

    async def _rule(self, original: UUID, rule: AlertRuleSet, report: DefinitionReport) -> None:
        project_id = self._project.project_id
        workflow = rule.workflow and await placed(self._pool, project_id, "workflow", rule.workflow)
        run = rule.run and await placed(self._pool, project_id, "run", rule.run)
        event = replace(rule, project=project_id, workflow=workflow, run=run)
        await self._subscribe(original, "alert_rule", event, report)

    async def _webhook(self, original: UUID, hook: WebhookSet, report: DefinitionReport) -> None:
        event = replace(hook, project=self._project.project_id)
        known = await self._subscribe(original, "webhook", event, report)
        if known is None or (known.removed_at is None and not known.webhook().in_force):
            report.why = f"{WAITS}: PATCH /projects/{self._project.project_id}/webhooks/{report.id}"

    async def _subscribe(
        self, original: UUID, kind: subscriptions.Kind, event: AlertRuleSet | WebhookSet, report: DefinitionReport
    ) -> Subscription | None:
        """Set what is not here; returns what is here already, in force or not."""
        project_id = self._project.project_id
        here, known = original, await subscriptions.get(self._pool, original)
        if known is not None and known.project_id != project_id:
            here = derived(project_id, "import", original)
            known = await subscriptions.get(self._pool, here)
        report.id = here
        if known is not None:
            report.outcome = "already there"
            report.why = "" if known.removed_at is None else "it was removed here, and stays so"
            return known
        if len(await subscriptions.of_project(self._pool, project_id, kind)) >= subscriptions.MAX_PER_PROJECT:
            what = kind.replace("_", " ")
            raise Unreadable(f"a project has at most {subscriptions.MAX_PER_PROJECT} {what}s")
        row = subscriptions.row(here, event, version=1)
        await self._append(here, 0, [event], row, ledger_id=self._project.organisation_id)
        report.outcome = "new"
        return None

    async def _due(self, here: UUID, events: Sequence[Any], report: DefinitionReport) -> tuple[list[Any], list[Any]]:
        """Return what is still to be recorded, and what is; both histories begin alike, or it is refused."""
        known = [one.event() for one in await self._ledger.read_stream(self._project.project_id, here)]
        shared = min(len(known), len(events))
        if known[:shared] != list(events[:shared]):
            raise Unreadable("it went another way here than there; it stays as it is here")
        report.outcome = "continued" if known else "new"
        if len(known) >= len(events):
            report.outcome, report.why = "already there", ""
        return list(events[shared:]), known

    async def _append(
        self, here: UUID, version: int, events: Sequence[Any], row: Rows, ledger_id: UUID | None = None
    ) -> None:
        request = Request(
            actor=IMPORTER,
            event_id=derived(here, "import", version),
            body=hashlib.sha256(b"".join(map(codec.encode, events))).digest(),
            named=True,
            occurred_at=datetime.now(UTC),
        )
        await record(
            self._ledger,
            ledger_id=ledger_id or self._project.project_id,
            stream=here,
            expected_version=version,
            events=events,
            inline=row,
            request=request,
        )


async def taken_over(
    definitions: Callable[[], Iterator[Definition]], definer: Definer | None
) -> AsyncIterator[DefinitionReport]:
    """Bring what is defined in a project here, and yield what became of each; without a definer, only read it."""
    found = definitions()
    while (definition := await asyncio.to_thread(lambda: next(found, None))) is not None:
        if definer is not None:
            yield await definer.take(definition)
            continue
        report = DefinitionReport(kind=definition.kind, original=definition.id)
        try:
            report.name, _ = read(definition)
        except _REFUSED as error:
            report.outcome, report.why = "refused", said(error)
        yield report


def _folded(kinds: UnionType, evolve: Callable[[S, Any], S], state: S, events: Sequence[Any]) -> S:
    """Return what a history adds up to. Raises `CorruptHistory` for an event of something else."""
    for event in events:
        if not isinstance(event, kinds):
            what = type(state).__name__.lower()
            raise CorruptHistory(f"{type(event).__name__} is nothing that happens to a {what}")
        state = evolve(state, event)
    return state


_workflow_of: Final = partial(_folded, WorkflowEvent, recipes.evolve, Workflow())
_sweep_of: Final = partial(_folded, SweepEvent, searches.evolve, Sweep())
